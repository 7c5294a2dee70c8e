"""The fields of submission.json, the competition's and ours, and those of them that follow from others.

Losses are nats a token, sizes decimal bytes, `_s` seconds, `_ms` milliseconds. Means and deviations are over the seeds;
a deviation is the sample's (n - 1), and null where there is one seed.
"""

import datetime
import math
import statistics
from typing import Annotated, Any, Literal

import msgspec

# Of evaluation, in the competition's rules; training has the run's own cap.
EVAL_SECONDS_CAP = 600.0
# What the pocket track allows instead of 600 s: ten minutes at 83 GFLOP/s.
POCKET_FLOPS = 5e13
# The machine's calibration in a SeedResult: all of them are told, or none.
CALIBRATION_FIELDS = ("bf16_peak_gflops", "fp32_peak_gflops", "model_flops", "share_of_peak")
# A protocol is one of windows, told by the first two, or this one, told by the others.
STREAM = "stream"
PROTOCOL_FIELDS = ("window", "stride", "chunk", "documents")

# The upper bound keeps sums and products of whatever a file holds within what a float can take.
Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
PositiveAmount = Annotated[float, msgspec.Meta(gt=0, le=1e15)]
PositiveFlops = Annotated[float, msgspec.Meta(gt=0, le=1e30)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class SeedResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one seed reached, and what its machine was measured to do, which records of the first day do not tell.

    Peaks are of matrix products, all ranks together. `model_flops` are those of the training tokens, forward and
    backward, and `share_of_peak` how many of them a second there were for those of the bf16 peak.
    """

    val_loss: PositiveAmount
    val_bpb: PositiveAmount
    artifact_bytes: Count
    artifact_sha256: Sha256
    steps: PositiveCount
    step_avg_ms: PositiveAmount
    train_time_s: PositiveAmount
    eval_time_s: Amount
    tokens_seen: PositiveCount
    bf16_peak_gflops: PositiveAmount | None = None
    fp32_peak_gflops: PositiveAmount | None = None
    model_flops: PositiveFlops | None = None
    share_of_peak: PositiveAmount | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How every seed was scored; `bytes` are those of the scored text, `implied_bytes` what the mean scores say.

    Windows have `window` and `stride`, a stream has `chunk` and `documents` ("continue", or "restart": each alone).
    """

    protocol: str
    window: PositiveCount | None = None  # tokens
    stride: PositiveCount | None = None  # tokens
    chunk: PositiveCount | None = None  # tokens
    documents: Literal["continue", "restart"] | None = None
    tokens: PositiveCount
    bytes: PositiveCount
    implied_bytes: PositiveAmount


class Compliance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules that the figures prove or refute; `judged` computes them, and no other value is accepted.

    The step that crosses the training cap counts as under it, as in the organisers' script; null: there is no cap.
    """

    train_under_cap: bool | None
    eval_under_600s: bool
    artifact_under_budget: bool
    three_seeds: bool


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record. `bytes_model` is the largest artifact over the seeds, and `bytes_total` that and the code.

    `seeds` are in the order of the runs: the first one's artifact is model.bin, its fingerprint the `fingerprint`
    (which covers the seed). `overrides` are those of the recipe without the seed.
    """

    author: str
    github_id: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_-]*\Z")]
    name: str
    blurb: str
    date: datetime.date
    track: str
    val_loss: PositiveAmount
    val_bpb: PositiveAmount
    bytes_total: Count
    bytes_code: Count
    bytes_model: Count
    val_loss_std: Amount | None
    val_bpb_std: Amount | None
    seeds: list[int]
    seed_results: dict[int, SeedResult]
    hardware: str
    pytorch_version: str
    python_version: str
    recipe: str
    overrides: list[str]
    fingerprint: str
    evaluation: Evaluation
    train_seconds_cap: PositiveAmount | None
    budget: PositiveCount
    code_sha256: Sha256
    technique_summary: str
    compliance: Compliance


def judged(
    results: list[SeedResult],
    bytes_total: int,
    train_seconds_cap: float | None,
    budget: int,  # bytes of code and model
) -> Compliance:
    """What the figures prove."""
    return Compliance(
        train_under_cap=None
        if train_seconds_cap is None
        else all(entry.train_time_s <= train_seconds_cap + entry.step_avg_ms / 1000 for entry in results),
        eval_under_600s=all(entry.eval_time_s <= EVAL_SECONDS_CAP for entry in results),
        artifact_under_budget=bytes_total <= budget,
        three_seeds=len(results) >= 3,
    )


def protocol_words(scored: Any) -> str:
    """How an Evaluation, or the score.json of a run, was scored, for people."""
    if scored.protocol != STREAM:
        return f"{scored.protocol} of {scored.window}, stride {scored.stride}"
    state = "dropped at the start of every document" if scored.documents == "restart" else "carried through the text"
    return f"{scored.protocol} in chunks of {scored.chunk}, the state {state}"


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); None for a single value.

    >>> mean_and_std([1.0, 2.0]), mean_and_std([1.0])
    ((1.5, 0.7071067811865476), (1.0, None))
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def implied_bytes(val_loss: float, val_bpb: float, tokens: int) -> float:
    """The bytes of text that both scores imply: tokens x loss / ln 2 / bits per byte.

    >>> round(implied_bytes(2.07269931, 1.22436570, 62_021_632) / 1e6, 1)
    151.5
    """
    return tokens * val_loss / math.log(2) / val_bpb
