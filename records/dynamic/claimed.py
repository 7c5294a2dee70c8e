"""What a record claims that a second scoring can confirm, and the files of it that are needed for that."""

import re
from dataclasses import dataclass
from pathlib import Path

from records.judge.claims import Claims, read_claims
from records.submission import read_submission
from runtime.errors import UserError
from runtime.files import read_bytes
from runtime.source import CODE_FILE

_ARTIFACTS = ("model.bin", "*.ptz", "*.int8*", "*model*.bin", "*.zst", "*.br", "*.lzma", "*.pt")
_ISOLATION = re.compile(
    r"(?:documents?|docs?)[- ](?:isolat|independen|reset)|isolated (?:documents?|docs?)|per[- ]document|varlen",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ClaimedScore:
    """The claim about one artifact; None or "" where the record does not say."""

    val_bpb: tuple[
        float, ...
    ] = ()  # the artifact's own, or of every seed and their mean where it is not told whose it is
    val_loss: float | None = None
    tokens: int | None = None
    bytes: int | None = None
    window: int | None = None
    stride: int | None = None
    chunk: int | None = None  # of a score as a stream
    artifact_sha256: str = ""
    hardware: str = ""
    isolation: str = ""  # where it says that documents are apart
    is_ours: bool = False  # whether the record is one of ours, with a scoring command


def read_claimed(folder: Path) -> ClaimedScore:
    """The claim in `folder`/submission.json. Raises UserError when that cannot be read at all."""
    path = folder / "submission.json"
    claims = read_claims(read_bytes(path, "the claims of a record"), str(path))
    isolation = _isolation(claims)
    try:
        submission = read_submission(path)
    except UserError:
        seeds = claims.seed_values("val_bpb")
        scores = tuple(value for value in [claims.number("val_bpb"), *seeds] if value is not None)
        loss = claims.number("val_loss")
        counts = {
            name: value
            for name in ("tokens", "bytes", "window")
            if isinstance(value := claims.evaluation.get(name), int)
        }
        return ClaimedScore(scores, loss, hardware=claims.text("hardware"), isolation=isolation, **counts)
    first, evaluation = submission.seed_results[submission.seeds[0]], submission.evaluation
    return ClaimedScore(
        val_bpb=(first.val_bpb,),
        val_loss=first.val_loss,
        tokens=evaluation.tokens,
        bytes=evaluation.bytes,
        window=evaluation.window,
        stride=evaluation.stride,
        chunk=evaluation.chunk,
        artifact_sha256=first.artifact_sha256,
        hardware=submission.hardware,
        isolation="submission.json says documents: restart" if evaluation.documents == "restart" else isolation,
        is_ours=(folder / CODE_FILE).is_file() and (folder / "model.bin").is_file(),
    )


def artifact_of(folder: Path, name: str | None = None) -> Path:
    """The packed model of a record: `name`, or what is usually called so. Raises UserError when there is none."""
    patterns = (name,) if name else _ARTIFACTS
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not found:
        raise UserError(
            f"a record is verified from its artifact, got none of {', '.join(patterns)} in {folder}; give --artifact"
        )
    return found[0]


def _isolation(claims: Claims) -> str:
    words = [text for name in ("blurb", "name") if (text := claims.text(name))]
    words += [str(claims.tree[key]) for key in ("technique_summary", "evaluation") if key in claims.tree]
    match = next((match for text in words if (match := _ISOLATION.search(text))), None)
    return f"submission.json says {match[0]!r}" if match else ""
