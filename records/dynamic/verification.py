"""What the dynamic judge hands back: the verdict, every test as it went, and figures for a report."""

import math
from dataclasses import dataclass, field
from typing import Any

from records.dynamic.rules import Probe
from records.judge.finding import EXIT_NOT_READABLE, SEVERITIES, Verdict, printable


@dataclass(frozen=True)
class Verification:
    """A verdict, and what it rests on."""

    verdict: Verdict
    probes: tuple[Probe, ...] = ()
    confinement: str = ""  # how the submission was held
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """The verdict in a word."""
        code = self.verdict.exit_code
        return "not readable" if code == EXIT_NOT_READABLE else ("clean", *SEVERITIES[1:])[code]

    def lines(self) -> list[str]:
        """The verification for people: tests first, then findings."""
        told = [f"{self.verdict.folder}: {self.word}"]
        if self.confinement:
            told.append(f"  {'sandbox':<8}  {self.confinement}; {self.seconds:.0f} s in all")
        told += [f"  {probe}" for probe in self.probes]
        told += [f"  {finding}" for finding in self.verdict.findings]
        return [printable(line) for line in told]

    def as_tree(self) -> dict[str, Any]:
        """The verification for --json."""
        return {
            "folder": self.verdict.folder,
            "verdict": self.word,
            "exit_code": self.verdict.exit_code,
            "confinement": self.confinement,
            "seconds": round(self.seconds, 1),
            "probes": [{"name": probe.name, "held": probe.held, "measured": probe.measured} for probe in self.probes],
            "findings": [finding.as_tree() for finding in self.verdict.findings],
            **{name: _in_json(value) for name, value in self.figures.items()},
        }


def _in_json(value: Any) -> Any:
    """A figure without NaN and infinities, which JSON has not."""
    if isinstance(value, list):
        return [_in_json(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _in_json(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
