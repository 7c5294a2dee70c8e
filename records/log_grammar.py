"""train.log as facts: what our runs write, and what the scripts of the competition have written since its first week.

    model_params:N compute:fp32 bf16_peak:… fp32_peak:… GFLOP/s a rank ours: the machine's calibration
    step:N/20000 train_loss:… train_time:…ms step_avg:…ms           March 2026, and ours
    step:N/20000 val_loss:… val_bpb:… train_time:…ms step_avg:…ms
    N/20000 train_loss: … train_time: 3.2m tok/s: …                   April 2026
    N/20000 val_loss: … val_bpb: …
    stopping_early: wallclock_cap train_time:…ms step:N/20000
    tokens:N epochs:… tok/s:… model_flops:… share_of_bf16_peak:…    ours
    peak memory allocated: A MiB reserved: R MiB
    Serialized model int8+zlib: N bytes (…)   Code size: N bytes   Total submission size int8+zlib: N bytes
    LABEL val_loss:… val_bpb:… eval_time:…ms                          final_int8_zlib_roundtrip(_exact), diagnostic
                                                                      quantized, quantized_ttt_phased, sliding …,
                                                                      stream …
    total_eval_time:…s

A log often begins with the source of its script: the patterns want figures where the source has format fields.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from runtime.files import read_bytes

_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d{1,3})?|nan|inf))"
# Eighteen digits hold every count there is, and no hostile line can ask for a number of a megabyte.
_COUNT = r"(\d{1,18})"
_BYTES = r"(\d[\d,]{0,20})"
_AT = rf"^(?:step:)?{_COUNT}/{_COUNT} "
_SCORE = rf"val_loss: ?{_NUMBER} val_bpb: ?{_NUMBER}"

_STEP_LINE = re.compile(rf"{_AT}train_loss: ?{_NUMBER}", re.ASCII)
_VALIDATION_LINE = re.compile(_AT + _SCORE, re.ASCII)
_SCORE_LINE = re.compile(rf"^(.*\S) {_SCORE}", re.ASCII)
_STOP_LINE = re.compile(rf"^stopping_early: (\S+) .*step: ?{_COUNT}/{_COUNT}", re.ASCII)
_MACHINE_LINE = re.compile(rf"^model_params:\d+ .*\bbf16_peak:{_NUMBER} fp32_peak:{_NUMBER} GFLOP/s", re.ASCII)
_WORK_LINE = re.compile(rf"^tokens:\d+ .*\bmodel_flops:{_NUMBER} share_of_bf16_peak:{_NUMBER}", re.ASCII)
_PEAK_LINE = re.compile(rf"^peak memory allocated: {_BYTES} MiB", re.ASCII)
_SIZE_LINE = re.compile(rf"^(Serialized model|Code size|Total submission size)([^:]*): {_BYTES} bytes", re.ASCII)
_TRAIN_TIME = re.compile(rf"\btrain_time: ?{_NUMBER}(ms|s|m)\b", re.ASCII)
_EVAL_TIME = re.compile(rf"\beval_time: ?{_NUMBER}(ms|s|m)\b", re.ASCII)
_TOTAL_EVAL_LINE = re.compile(rf"^total_eval_time: ?{_NUMBER}(ms|s|m)\b", re.ASCII)
_STEP_AVERAGE = re.compile(rf"\bstep_avg: ?{_NUMBER}ms", re.ASCII)
_SEED_LINE = re.compile(rf"^(?:recipe .* | *)seed: ?{_COUNT}(?: run:.*)?$", re.ASCII)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_WHAT = {"Serialized model": "model", "Code size": "code", "Total submission size": "total"}


@dataclass(frozen=True)
class LoggedStep:
    """A training step; times are None where the line has none."""

    step: int
    total_steps: int
    train_loss: float  # nats a token
    train_seconds: float | None
    step_avg_ms: float | None


@dataclass(frozen=True)
class LoggedValidation:
    """A validation during training or at its end."""

    step: int
    total_steps: int
    val_loss: float  # nats a token
    val_bpb: float
    train_seconds: float | None


@dataclass(frozen=True)
class LoggedStop:
    """Why and where a run ended before its last step."""

    reason: str
    step: int
    total_steps: int
    train_seconds: float | None


@dataclass(frozen=True)
class LoggedSize:
    """`what` is model, code or total; `label` is the coder, "" for the model as torch saves it."""

    what: str
    label: str
    size: int  # bytes


@dataclass(frozen=True)
class LoggedMachine:
    """What a rank of the machine was measured to do at best."""

    bf16_peak_gflops: float
    fp32_peak_gflops: float


@dataclass(frozen=True)
class LoggedWork:
    """What training was, in operations of the model, and how near to the bf16 peak."""

    model_flops: float
    share_of_peak: float


@dataclass(frozen=True)
class LoggedScore:
    """A score after training, of whatever `label` says."""

    label: str
    val_loss: float  # nats a token
    val_bpb: float
    eval_seconds: float | None


@dataclass(frozen=True)
class TrainLog:
    """All that the lines of a log say, each kind in the order of the file; the last of a kind is what counts."""

    seed: int | None
    steps: tuple[LoggedStep, ...]
    validations: tuple[LoggedValidation, ...]
    stop: LoggedStop | None
    peak_memory_mib: int | None
    sizes: tuple[LoggedSize, ...]
    scores: tuple[LoggedScore, ...]
    total_eval_seconds: float | None
    machine: LoggedMachine | None = None
    work: LoggedWork | None = None

    def size(self, what: str) -> int | None:
        """Bytes of the "model", the "code" or the "total" as the log said them last."""
        sizes = [entry.size for entry in self.sizes if entry.what == what]
        return sizes[-1] if sizes else None

    @property
    def final(self) -> LoggedScore | None:
        """The last score of the log: what a submission claims."""
        return self.scores[-1] if self.scores else None


def read_log(path: Path) -> TrainLog:
    """The facts of the log `path`. Raises UserError when it cannot be read; strange lines are passed over."""
    return parse_log(read_bytes(path, "the log of a run").decode("utf-8", errors="replace"))


def parse_log(text: str) -> TrainLog:
    """The facts of a log in either grammar.

    >>> parse_log("step:2/9 val_loss:2.07 val_bpb:1.22 train_time:5ms step_avg:2.50ms").validations[0].val_bpb
    1.22
    """
    lines = text.splitlines()
    return TrainLog(
        seed=_last([int(match[1]) for match in _matches(_SEED_LINE.match, lines)]),
        steps=tuple(_step(match) for match in _matches(_STEP_LINE.match, lines)),
        validations=tuple(_validation(match) for match in _matches(_VALIDATION_LINE.match, lines)),
        stop=_last([_stop(match) for match in _matches(_STOP_LINE.match, lines)]),
        peak_memory_mib=_last([_whole(match[1]) for match in _matches(_PEAK_LINE.match, lines)]),
        sizes=tuple(_size(match) for match in _matches(_SIZE_LINE.match, lines)),
        scores=tuple(_score(match) for match in _matches(_SCORE_LINE.match, lines) if not _is_validation(match)),
        total_eval_seconds=_last([_in_seconds(match) for match in _matches(_TOTAL_EVAL_LINE.match, lines)]),
        machine=_last([LoggedMachine(*map(float, match.groups())) for match in _matches(_MACHINE_LINE.match, lines)]),
        work=_last([LoggedWork(*map(float, match.groups())) for match in _matches(_WORK_LINE.match, lines)]),
    )


def _matches(pattern, lines: list[str]) -> list[re.Match]:
    return [match for line in lines if (match := pattern(line))]


def _last(found: list):
    return found[-1] if found else None


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _in_seconds(match: re.Match | None) -> float | None:
    return float(match[1]) * _SECONDS[match[2]] if match else None


def _is_validation(match: re.Match) -> bool:
    return _VALIDATION_LINE.match(match.string) is not None


def _step(match: re.Match) -> LoggedStep:
    average = _STEP_AVERAGE.search(match.string)
    seconds = _in_seconds(_TRAIN_TIME.search(match.string))
    return LoggedStep(int(match[1]), int(match[2]), float(match[3]), seconds, float(average[1]) if average else None)


def _validation(match: re.Match) -> LoggedValidation:
    seconds = _in_seconds(_TRAIN_TIME.search(match.string))
    return LoggedValidation(int(match[1]), int(match[2]), float(match[3]), float(match[4]), seconds)


def _stop(match: re.Match) -> LoggedStop:
    return LoggedStop(match[1], int(match[2]), int(match[3]), _in_seconds(_TRAIN_TIME.search(match.string)))


def _size(match: re.Match) -> LoggedSize:
    return LoggedSize(_WHAT[match[1]], match[2].strip(), _whole(match[3]))


def _score(match: re.Match) -> LoggedScore:
    seconds = _in_seconds(_EVAL_TIME.search(match.string))
    return LoggedScore(match[1], float(match[2]), float(match[3]), seconds)
