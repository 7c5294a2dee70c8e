"""What the stages of a verification share: the case, and how a stage ends."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from records.dynamic.claimed import ClaimedScore
from records.dynamic.rules import Probe, broken, probe_of
from records.dynamic.sandbox import Sandbox, SandboxLimits
from records.dynamic.session import MemoryLimitError, ScorerError, TimeLimitError
from records.dynamic.texts import JudgedText
from records.dynamic.watched import artifact_probe, files_probe, network_probe
from runtime.files import sha256_of

STAGE_ERRORS = (ScorerError, TimeLimitError, MemoryLimitError)
_RULES = {TimeLimitError: "time-limit", MemoryLimitError: "memory-limit", ScorerError: "scorer-broken"}


@dataclass
class Case:
    """One record as it is verified; the stages leave their figures here."""

    folder: Path
    artifact: Path
    claimed: ClaimedScore
    text: JudgedText
    scorer: str  # file.py:function
    tokens: int  # the budget of the probes
    limits: SandboxLimits
    figures: dict[str, Any] = field(default_factory=dict)
    short: "ShortText | None" = None


@dataclass(frozen=True)
class ShortText:
    """A few windows of the validation text, or a stream as one, and what the record's own command says of them."""

    tokens: np.ndarray  # uint16 [N + 1]
    window: int
    stride: int
    val_loss: float  # nats a token

    def spans(self) -> list[tuple[int, int, int]]:
        """(start, end, scored) of every window: it reads tokens start .. end - 1 and scores the last so many of them.

        The first window scores all that it reads, a later one its last `stride` tokens, each target once.
        """
        targets = len(self.tokens) - 1
        first = min(self.window, targets)
        ends = range(first + self.stride, targets + 1, self.stride)
        return [(0, first, first), *((end - self.window, end, self.stride) for end in ends)]


def new_sandbox(case: Case, place: Path) -> Sandbox:
    """The sandbox of one stage in the new folder `place`."""
    place.mkdir()
    return Sandbox(place, case.text.folder, case.limits)


def ended_by(error: Exception, what: str) -> Probe:
    """The probe of a stage that could not be finished."""
    return probe_of(what, str(error), [broken(_RULES[type(error)], str(error), what)])


def conduct_probes(
    case: Case,
    sandbox: Sandbox,  # of the stage, its processes ended
    what: str,  # the stage in words
    copy: Path,  # the artifact that they had
    code: Path,  # the folder of their code
) -> Iterator[Probe]:
    """How the processes of a stage behaved."""
    yield files_probe(sandbox, what, code)
    yield network_probe(sandbox, what)
    # The record's own file is out of reach, but nothing is lost by looking.
    before = dict.fromkeys((copy, case.artifact), case.figures["artifact_sha256"])
    yield artifact_probe(before, {path: sha256_of(path) for path in before if path.is_file()}, what)
