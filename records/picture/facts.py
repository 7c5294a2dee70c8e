"""What a report shows of a record: curves, scores, bytes and findings, from its files alone, whoever made it."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records.judge.finding import Verdict
from records.judge.folder import read_folder
from records.judge.judge import judge_path
from records.judge.record import JudgedRecord, read_record
from records.log_grammar import TrainLog
from records.run_files import LedgerFacts
from records.typed_json import parse_json, read_json, typed
from runtime.errors import UserError

VERIFICATION_FILE = "verify.json"
_WEIGHTS = re.compile(r"^(?:step:)?(\d{1,18})/\d{1,18} val_loss:.* weights:(\S{1,60})$", re.MULTILINE)


@dataclass(frozen=True)
class RunCurve:
    """One run as its log tells it."""

    name: str  # "seed 42", or the log's name
    log: TrainLog
    weights: dict[int, str] = field(default_factory=dict)  # which weights the n-th validation was of


@dataclass(frozen=True)
class PictureFacts:
    """All that is drawn of one record; what its files do not tell is None or empty."""

    folder: Path
    record: JudgedRecord
    verdict: Verdict
    curves: tuple[RunCurve, ...]
    ledger: LedgerFacts | None
    verification: dict[str, Any]  # what `records verify --json` printed

    @property
    def title(self) -> str:
        """The name that it gives itself, or the folder's."""
        return self.record.claims.text("name") or self.folder.name

    @property
    def seed_scores(self) -> dict[int, float]:
        """Bits per byte by seed."""
        results = self.record.claims.results
        return {seed: held["val_bpb"] for seed, held in results.items() if "val_bpb" in held}

    @property
    def bits_per_nat(self) -> float | None:
        """Bits per byte that one nat a token makes on the validation text."""
        claims = self.record.claims
        tokens, size = claims.evaluation.get("tokens"), claims.evaluation.get("bytes")
        if isinstance(tokens, int) and isinstance(size, int) and size:
            return tokens / size / math.log(2)
        loss, bpb = claims.number("val_loss"), claims.number("val_bpb")
        return bpb / loss if loss and bpb else None

    def score_stages(self) -> list[tuple[str, float]]:
        """(what was scored, bits per byte) of the first log, from the weights in training to the last score."""
        if not self.curves:
            return []
        log = self.curves[0].log
        last = log.validations[-1].step if log.validations else 0
        stages = [
            (self.curves[0].weights.get(index, "in training").replace("_", " "), entry.val_bpb)
            for index, entry in enumerate(log.validations)
            if entry.step == last
        ]
        stages = [(f"float, {name}, plain windows", value) for name, value in stages]
        if isinstance(plain := self.verification.get("plain_bpb"), float):
            stages.append(("from the bytes, plain windows", plain))
        # Scripts print their last score twice, with four decimals and with eight.
        exact = {entry.label.removesuffix("_exact"): entry.val_bpb for entry in log.scores}
        ours = [label for label in exact if label.startswith(("sliding ", "stream "))]
        return stages + [
            (f"from the bytes, {label}" if label in ours else label, value)
            for label, value in exact.items()
            if label in ours or not ours
        ]


def read_picture(folder: Path, verified: Path | None = None) -> PictureFacts:
    """The facts of the record in `folder`; `verified` is what `records verify --json` printed, if not in it.

    Raises UserError when there is no such folder or the verification cannot be read.
    """
    record = read_record(read_folder(folder))
    path = verified or folder / VERIFICATION_FILE
    verification = read_json(path, "a verification") if verified or path.is_file() else {}
    if not isinstance(verification, dict):
        raise UserError(
            f"{path} must be what `python -m records verify --json` printed, got {str(verification)[:40]!r}"
        )
    return PictureFacts(folder, record, judge_path(folder), _curves(record), _ledger(record), verification)


def _curves(record: JudgedRecord) -> tuple[RunCurve, ...]:
    curves = []
    for facts in record.logs:
        if facts.log.steps or facts.log.validations or facts.log.scores:
            labels = [match[2] for match in _WEIGHTS.finditer(record.folder.files[facts.name].text)]
            known = len(labels) == len(facts.log.validations)
            name = f"seed {facts.seed}" if facts.seed is not None else facts.name
            curves.append(RunCurve(name, facts.log, dict(enumerate(labels)) if known else {}))
    return tuple(curves)


def _ledger(record: JudgedRecord) -> LedgerFacts | None:
    """ledger.json, where it is there and one of ours."""
    file = record.folder.files.get("ledger.json")
    try:
        return typed(parse_json(file.data or b"", file.name), LedgerFacts, file.name) if file else None
    except (UserError, json.JSONDecodeError):
        return None
