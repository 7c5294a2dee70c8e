"""The first stage, for our own records: their own command scores the artifact again, and a short part of the text."""

from collections.abc import Iterator
from pathlib import Path

from records.dynamic.rescoring import (
    bytes_probe,
    coverage_probe,
    lay_out_command,
    lay_out_data,
    rescore_probe,
    run_command_in,
)
from records.dynamic.rules import Probe, broken, probe_of
from records.dynamic.sandbox import Sandbox
from records.dynamic.stage import STAGE_ERRORS, Case, ShortText, conduct_probes, ended_by, new_sandbox
from records.fields import implied_bytes
from runtime.files import sha256_of

# Windows after the first one; chunks of a stream; and what is enough where a chunk is long.
_SHORT_WINDOWS, _SHORT_CHUNKS, _SHORT_STREAM = 12, 3, 16_384


def judge_command(case: Case, scratch: Path) -> Iterator[Probe]:
    """Re-score, coverage, bytes and conduct; for a record of another pipeline what its claims alone can tell."""
    case.figures["artifact_sha256"] = sha256_of(case.artifact)
    yield from _artifact_is_the_claimed(case)
    if not case.claimed.is_ours:
        yield from _claims_alone(case)
        return
    sandbox = new_sandbox(case, scratch / "command")
    folder = lay_out_command(sandbox, case.folder, case.artifact)
    try:
        yield from _scored_again(case, sandbox, folder)
    except STAGE_ERRORS as error:
        yield ended_by(error, "the command")
    yield from conduct_probes(case, sandbox, "the command", folder / case.artifact.name, folder)


def _artifact_is_the_claimed(case: Case) -> Iterator[Probe]:
    claimed, found = case.claimed.artifact_sha256, case.figures["artifact_sha256"]
    if not claimed:
        return
    findings = []
    if claimed != found:
        evidence = f"submission.json {claimed[:16]}, {case.artifact.name} {found[:16]}"
        findings.append(broken("artifact-differs", "another artifact than the one that was scored", evidence))
    yield probe_of("artifact", f"SHA-256 {found[:16]}", findings)


def _scored_again(case: Case, sandbox: Sandbox, folder: Path) -> Iterator[Probe]:
    claimed, text = case.claimed, case.text
    data = lay_out_data(sandbox, text)
    again = run_command_in(sandbox, folder, case.artifact.name, data)
    case.figures |= {"claimed_bpb": claimed.val_bpb[0], "rescored_bpb": again.val_bpb, "rescore_seconds": again.seconds}
    yield rescore_probe(claimed, again.val_bpb, "again")
    yield coverage_probe(text, {"claimed": claimed.tokens, "again": again.tokens}, claimed.window)
    implied = implied_bytes(again.val_loss, again.val_bpb, again.tokens)
    counts = {"claimed": claimed.bytes, "again": again.bytes, "implied by the score": _near(implied, again.bytes)}
    yield bytes_probe(text, again.tokens, counts)
    if claimed.window and claimed.stride and claimed.stride < claimed.window <= text.num_targets:
        # What packing costs, apart from what overlapping windows gain: for the report, nobody claims it.
        plain = run_command_in(sandbox, folder, case.artifact.name, data, claimed.window)
        case.figures["plain_bpb"] = plain.val_bpb
    start, length, window, stride = _short_stream(case) if claimed.chunk else _short_windows(case)
    tokens = text.tokens[start : start + length + 1]
    score = run_command_in(sandbox, folder, case.artifact.name, lay_out_data(sandbox, text, tokens))
    # The scorer is held against it.
    case.short = ShortText(tokens, window, stride, score.val_loss)


def _short_windows(case: Case) -> tuple[int, int, int, int]:
    """A few windows from the middle of the split: first token, targets, window and stride."""
    claimed, text = case.claimed, case.text
    window = min(claimed.window or text.num_targets, text.num_targets)
    stride = min(claimed.stride or window, window)
    length = min(text.num_targets, window + _SHORT_WINDOWS * stride)
    # Whole strides: what a shorter last one does is the protocol's own affair.
    length -= (length - window) % stride
    return (text.num_targets - length) // 2, length, window, stride


def _short_stream(case: Case) -> tuple[int, int, int, int]:
    """A few chunks around the start of a document, as one window: what is carried on there is seen in the score."""
    text = case.text
    length = min(text.num_targets, _SHORT_CHUNKS * case.claimed.chunk, _SHORT_STREAM)
    middle = int(text.starts[len(text.starts) // 2])
    return min(max(0, middle - length // 2), text.num_targets - length), length, length, length


def _near(implied: float, counted: int) -> float:
    """The implied bytes, or the counted ones where the eight decimals of the score explain the difference."""
    return counted if abs(implied / counted - 1) < 1e-6 else implied


def _claims_alone(case: Case) -> Iterator[Probe]:
    claimed, text = case.claimed, case.text
    yield coverage_probe(text, {"claimed": claimed.tokens}, claimed.window)
    implied = None
    if claimed.val_loss and claimed.val_bpb:
        implied = implied_bytes(claimed.val_loss, claimed.val_bpb[0], claimed.tokens or text.num_targets)
    yield bytes_probe(text, claimed.tokens, {"claimed": claimed.bytes, "implied by the claim": implied})
