"""What the files of a run folder say, as types: the fields that a record needs, whatever else stands there."""

import datetime

import msgspec


class RecordFacts(msgspec.Struct, frozen=True):
    """Whose record it is, from the recipe."""

    title: str
    blurb: str
    track: str
    author: str
    github_id: str


class RunFacts(msgspec.Struct, frozen=True):
    """recipe.json."""

    recipe: str
    overrides: list[str]
    fingerprint: str
    seed: int
    started: datetime.datetime
    train_seconds_cap: float | None
    budget: int
    record: RecordFacts


class ScoreFacts(msgspec.Struct, frozen=True, kw_only=True):
    """score.json; windows have `window` and `stride`, a stream has `chunk` and `documents`."""

    protocol: str
    val_loss: float
    val_bpb: float
    tokens: int
    bytes: int
    window: int | None = None
    stride: int | None = None
    chunk: int | None = None
    documents: str | None = None
    seconds: float
    artifact_bytes: int
    artifact_sha256: str


class GroupFacts(msgspec.Struct, frozen=True):
    """One entry of ledger.json."""

    group: str
    kind: str
    elements: int
    data: int
    scales: int


class LedgerFacts(msgspec.Struct, frozen=True):
    """ledger.json; `code` is bytes by file name."""

    entries: list[GroupFacts]
    header: int
    checksum: int
    code: dict[str, int]
    budget: int
    model_total: int
    code_total: int
    total: int


class StartEvent(msgspec.Struct, frozen=True):
    """The last start or resumption in log.jsonl."""

    seed: int
    fingerprint: str
    parameters: int
    code_sha256: str
    python: str
    torch: str
    hardware: str
    world_size: int
    bf16_peak_gflops: float | None = None  # a rank
    fp32_peak_gflops: float | None = None


class TrainedEvent(msgspec.Struct, frozen=True):
    """The end of training in log.jsonl."""

    step: int
    tokens: int
    train_seconds: float
    model_flops: float | None = None
    share_of_peak: float | None = None


class ValidationEvent(msgspec.Struct, frozen=True):
    """The last validation in log.jsonl: of the weights that were packed, in non-overlapping windows."""

    weights: str
    val_bpb: float
