"""What a training log says beyond scores and sizes: the validation split, the shards, the clocks of calibration.

train_shards: 80                        val_tokens: 47851520
gptq:reserving 8.0s, effective=592000ms GPTQ:collected 67 Hessians in 3.5s
beginning TTT eval timer                Hyperparameters:  (then one "  name: value" a line)
"""

import re
from dataclasses import dataclass, field

from records.judge.folder import RecordFile, RecordFolder
from records.log_grammar import TrainLog, parse_log

MAX_LINE = 2_000
_NUMBER = r"(\d[\d,]{0,15}(?:\.\d{1,12})?)"
_LOG_NAME = r"\.log$|(^|/)[^/]*(log|train|seed|run|stdout|output)[^/]*\.(txt|out)$"
_NO_LOG = re.compile(r"requirements|readme|licen|cmake|prompt", re.IGNORECASE)
_PATTERNS = {
    "val_tokens": re.compile(rf"^\s*(?:val_tokens|val_loader[^\n]*tokens|target_tokens)[:=] ?{_NUMBER}\s*$"),
    "train_shards": re.compile(rf"^\s*(?:train_shards|num_train_shards|train_files)[:=] ?{_NUMBER}\s*$"),
    "documents": re.compile(rf"\btotal_docs[:=] ?{_NUMBER}\b"),
    "reserve": re.compile(rf"^\s*(?:gptq:reserving |gptq_reserve_seconds[:=] ?){_NUMBER}", re.IGNORECASE),
    "document_fraction": re.compile(rf"^\s*val_doc_fraction[:=] ?{_NUMBER}\s*$"),
}
_CALIBRATION = re.compile(
    r"\b(?:collect\w* .{0,40}hessians?|hessians? collected|calibrat\w*)\b.{0,60}?\b(?:in|took|time:?)"
    rf"\s*{_NUMBER} ?(ms|s)\b",
    re.IGNORECASE,
)
_PREPARED = re.compile(
    rf"\b(?:hint|n-?gram|cache|table|prefix|index)\w*\b.{{0,60}}?\b(?:built|computed|precomputed|done|ready|build|took)\b"
    rf".{{0,30}}?{_NUMBER} ?(ms|s)\b",
    re.IGNORECASE,
)
_TIMER_STARTS = re.compile(r"\bbeginning .*eval.* timer\b|^eval timer start", re.IGNORECASE)
_SETTING = re.compile(r"^ {1,8}(\w{2,60}): (.{0,300})$")


@dataclass(frozen=True)
class LogFacts:
    """One log: what the grammar finds, and the facts of this module with the line each stood on."""

    name: str
    size: int
    log: TrainLog
    seed: int | None
    facts: dict[str, tuple[float, int]] = field(default_factory=dict)  # the last of each kind, and its line
    settings: dict[str, str] = field(default_factory=dict)  # the hyper-parameters that it lists
    calibration: tuple[tuple[float, int], ...] = ()  # seconds and line of every collection of statistics
    prepared: tuple[tuple[float, int], ...] = ()  # of everything built before the evaluation's timer started
    mentions_fineweb: bool = False

    def number(self, name: str) -> float | None:
        """A fact, None where the log does not tell it."""
        return self.facts[name][0] if name in self.facts else None

    def at(self, name: str) -> str:
        """Where the fact stands."""
        return f"{self.name}:{self.facts[name][1]}"

    @property
    def train_seconds(self) -> float | None:
        """Seconds of training when it ended: the stop's if there is one, else the last line's with a time."""
        timed = [self.log.stop, *reversed(self.log.validations), *reversed(self.log.steps)]
        return next((entry.train_seconds for entry in timed if entry and entry.train_seconds), None)

    @property
    def step_seconds(self) -> float:
        """Seconds of one step, on average; 0 where nobody can tell."""
        steps = [entry.step for entry in (*self.log.steps, *self.log.validations) if entry.step]
        return (self.train_seconds or 0) / max(steps, default=0) if steps else 0.0

    @property
    def eval_seconds(self) -> float | None:
        """Seconds of the evaluation that gave the score."""
        final = self.log.final
        return self.log.total_eval_seconds or (final.eval_seconds if final else None)


def read_logs(folder: RecordFolder) -> tuple[LogFacts, ...]:
    """The logs of a record, in order of name."""
    files = [file for file in folder.matching(_LOG_NAME) if not _NO_LOG.search(file.name.rpartition("/")[2])]
    return tuple(read_log_facts(file) for file in files if not file.problem)


def read_log_facts(file: RecordFile) -> LogFacts:
    """One log's facts; strange lines are passed over."""
    lines = [line[:MAX_LINE] for line in file.text.split("\n")]
    log = parse_log("\n".join(lines))
    seed = log.seed if log.seed is not None else _seed_in_name(file.name)
    facts, calibration, prepared, started = {}, [], [], False
    for number, line in enumerate(lines, start=1):
        for name, pattern in _PATTERNS.items():
            if match := pattern.search(line):
                facts[name] = float(match[1].replace(",", "")), number
        started = started or bool(_TIMER_STARTS.search(line))
        if match := _CALIBRATION.search(line):
            calibration.append((_seconds(match), number))
        elif not started and (match := _PREPARED.search(line)):
            prepared.append((_seconds(match), number))
    return LogFacts(
        file.name,
        file.size,
        log,
        seed,
        facts,
        _settings(lines),
        tuple(calibration),
        tuple(prepared) if started else (),
        "fineweb" in file.text,
    )


def _seconds(match: re.Match) -> float:
    return float(match[1].replace(",", "")) * (0.001 if match[2].lower() == "ms" else 1.0)


def _seed_in_name(name: str) -> int | None:
    found = re.search(r"seed[_-]?(\d{1,18})|_s(\d{1,18})\.", name, re.IGNORECASE)
    return int(found[1] or found[2]) if found else None


def _settings(lines: list[str]) -> dict[str, str]:
    """The lines under "Hyperparameters:", up to the first that is none."""
    start = next((number for number, line in enumerate(lines) if line.startswith("Hyperparameters:")), None)
    settings: dict[str, str] = {}
    for line in lines[start + 1 :] if start is not None else ():
        match = _SETTING.match(line)
        if not match:
            break
        settings[match[1]] = match[2]
    return settings
