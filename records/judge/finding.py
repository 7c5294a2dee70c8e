"""What the judge has to say of a record: one line a finding, the rule it broke, the figure or line that shows it."""

from dataclasses import asdict, dataclass
from typing import Any

SEVERITIES = ("note", "doubtful", "invalid")
CONFIDENCES = ("low", "medium", "high", "certain")
EXIT_NOT_READABLE = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was found. A note needs no answer, a doubtful thing does, an invalid one breaks a rule.

    `confidence` says how sure the judge is that it saw what it says, and `why` what keeps it from being surer.
    """

    severity: str
    rule: str
    message: str
    evidence: str  # path:line, or the figures
    confidence: str = "certain"
    why: str = ""

    def __str__(self) -> str:
        doubt = f" ({self.confidence} confidence: {self.why})" if self.why else ""
        return printable(f"{self.severity:<8}  {self.rule}  {self.evidence}: {self.message}{doubt}")

    def as_tree(self) -> dict[str, Any]:
        """The finding for --json."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """All findings of one folder, the weightiest first; `readable` is False where there was no folder to judge."""

    folder: str
    readable: bool
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 clean, 1 doubtful, 2 invalid, 3 not readable."""
        if not self.readable:
            return EXIT_NOT_READABLE
        return max((SEVERITIES.index(finding.severity) for finding in self.findings), default=0)


def by_weight(findings: list[Finding]) -> tuple[Finding, ...]:
    """Without repetitions, the weightiest first, otherwise in the order in which they were found.

    >>> [f.rule for f in by_weight([Finding("note", "a", "", ""), Finding("invalid", "b", "", "")])]
    ['b', 'a']
    """
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: -SEVERITIES.index(finding.severity)))


def printable(text: str) -> str:
    """`text` on one line without control characters: what a stranger's file holds must not steer a terminal.

    >>> printable("a\\x1b[31m\\nb")
    'a?[31m?b'
    """
    return "".join(character if character.isprintable() else "?" for character in text)
