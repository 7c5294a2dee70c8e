"""A record as the rules see it: its folder, claims, logs, code through its payloads, and the limits of its track."""

import re
from dataclasses import dataclass, field

from records.fields import POCKET_FLOPS
from records.judge.claims import Claims, read_claims
from records.judge.folder import RecordFile, RecordFolder
from records.judge.log_facts import LogFacts, read_logs
from records.judge.payload import Unwrapping, unwrap
from records.judge.source import SourceUnit
from runtime.errors import UserError

BUDGET_BYTES = 16_000_000
CAP_SECONDS = 600.0
MAX_HELPERS = 150
MAX_HELPER_BYTES = 2_000_000
# The published validation split: scored tokens and bytes a token, by tokenizer (golf_techniques.md 1.4).
FINEWEB_BYTES = 151_080_000
FINEWEB_TOKENS = {"sp1024": 62_021_632, "sp4096": 45_508_608, "sp8192": 40_540_160, "sp8192 CaseOps": 47_851_520}


@dataclass(frozen=True)
class Limits:
    """What the record may use; None: no limit."""

    track: str  # 10min, non_record, pocket or unknown
    budget: int = BUDGET_BYTES  # bytes
    train: float | None = CAP_SECONDS
    evaluation: float | None = CAP_SECONDS


@dataclass
class JudgedRecord:
    """Everything that the rules ask of; what could not be read is None and told by `claims_problem`."""

    folder: RecordFolder
    claims: Claims
    claims_file: RecordFile | None
    claims_problem: str
    logs: tuple[LogFacts, ...]
    script: RecordFile | None
    code: Unwrapping
    helpers: dict[str, Unwrapping]  # what the script imports or runs from the folder, by name
    others: dict[str, RecordFile]  # Python beside it that it does not use: preparation, twins, tests
    limits: Limits = field(default_factory=lambda: Limits("unknown"))

    @property
    def units(self) -> list[SourceUnit]:
        """Every text that runs."""
        return [unit for part in (self.code, *self.helpers.values()) for unit in part.units]

    @property
    def is_fineweb(self) -> bool:
        """Whether the score is on the competition's validation split."""
        size = self.claims.evaluation.get("bytes")
        if isinstance(size, (int, float)):
            return abs(size / FINEWEB_BYTES - 1) < 0.3
        return self.limits.track == "10min" or any(log.mentions_fineweb for log in self.logs)

    @property
    def readme(self) -> RecordFile | None:
        """The README, whatever its case."""
        return next(iter(self.folder.matching(r"^readme(\.md|\.txt|\.rst)?$")), None)


def read_record(folder: RecordFolder) -> JudgedRecord:
    """The record in `folder`; never raises for what a file holds."""
    claims_file = _claims_file(folder)
    claims, problem = Claims(), ""
    try:
        claims = read_claims(claims_file.data or b"", claims_file.name) if claims_file else claims
    except UserError as error:
        problem = str(error)
    script = _script(folder)
    code = unwrap(script.data or b"", script.name, _files_beside(folder, script)) if script else Unwrapping()
    helpers = _helpers(folder, script, code) if script else {}
    python = {file.name: file for file in folder.matching(r"\.py$") if file is not script and file.name not in helpers}
    record = JudgedRecord(folder, claims, claims_file, problem, read_logs(folder), script, code, helpers, python)
    record.limits = limits_of(claims, folder)
    return record


def limits_of(claims: Claims, folder: RecordFolder) -> Limits:
    """The limits of the track that the claims or the folder above name."""
    kind = track_kind(claims.text("track")) or track_kind(folder.parent) or "unknown"
    budget, cap = claims.number("budget"), claims.number("train_cap")
    if kind == "non_record":
        return Limits(kind, min(BUDGET_BYTES, int(budget or BUDGET_BYTES)), train=cap, evaluation=None)
    if kind == "pocket":
        # The pocket's budget may be given in operations of the model, and takes as long as it takes then.
        spent = claims.seed_values("model_flops")
        by_flops = cap is None and 0 < len(spent) == len(claims.results) and max(spent) <= POCKET_FLOPS
        return Limits(kind, int(budget or 1_000_000), train=None if by_flops else cap or CAP_SECONDS)
    return Limits(kind)


def track_kind(text: str) -> str:
    """ "10min", "non_record", "pocket" or "" from a track's name in any spelling.

    >>> track_kind("track_10min_16mb"), track_kind("non-record unlimited compute"), track_kind("records")
    ('10min', 'non_record', '')
    """
    text = re.sub(r"[^a-z0-9]", "", text.lower())
    if "nonrecord" in text or "unlimited" in text:
        return "non_record"
    return "10min" if "10min" in text or "record10" in text else "pocket" if "pocket" in text else ""


def _claims_file(folder: RecordFolder) -> RecordFile | None:
    exact = folder.files.get("submission.json")
    return exact or next(iter(folder.matching(r"(^|/)[^/]*submission[^/]*\.json$")), None)


def _script(folder: RecordFolder) -> RecordFile | None:
    """train_gpt.py, or what stands in its place."""
    names = (
        r"^train_gpt\.py$",
        r"^train_gpt(?!_readable)\w*\.py$",
        r"^train\w*\.py$",
        r"^(main|run)\.py$",
        r"(^|/)train\w*\.py$",
    )
    return next((files[0] for name in names if (files := folder.matching(name))), None)


def _files_beside(folder: RecordFolder, script: RecordFile):
    def contents(name: str) -> bytes | None:
        base = script.name.rpartition("/")[0]
        file = folder.files.get(f"{base}/{name}".lstrip("/")) or folder.files.get(name.removeprefix("./"))
        return file.data if file else None

    return contents


def _helpers(folder: RecordFolder, script: RecordFile, code: Unwrapping) -> dict[str, Unwrapping]:
    """The modules of the folder that the script imports, directly or through others."""
    found: dict[str, Unwrapping] = {}
    waiting = _imported(code)
    while waiting and len(found) < MAX_HELPERS and sum(folder.files[name].size for name in found) < MAX_HELPER_BYTES:
        module = waiting.pop()
        for name in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
            file = folder.files.get(name)
            if file and file is not script and name not in found and not file.problem:
                found[name] = unwrap(file.data or b"", name, _files_beside(folder, file))
                waiting |= _imported(found[name])
    return found


def _imported(code: Unwrapping) -> set[str]:
    """Every module that the code names in an import, wherever the import stands, and the packages around it."""
    modules = set()
    for unit in code.units:
        for match in re.finditer(
            r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+([\w, ]+)|import[ \t]+([\w., ]+))", unit.text, re.MULTILINE
        ):
            for name in (match[3] or match[1]).replace(" ", "").split(","):
                parts = name.split(".")
                modules |= {".".join(parts[: length + 1]) for length in range(len(parts))}
            modules |= {f"{match[1]}.{name.strip()}" for name in (match[2] or "").split(",") if match[1]}
    return modules
