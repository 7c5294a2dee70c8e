"""submission.json, written and read: refused when a field is wrong or fields contradict each other."""

import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec

from records.fields import (
    CALIBRATION_FIELDS,
    PROTOCOL_FIELDS,
    STREAM,
    Compliance,
    SeedResult,
    Submission,
    implied_bytes,
    judged,
    mean_and_std,
)
from records.typed_json import check_finite, read_json, typed
from runtime.errors import UserError, nearest
from runtime.files import write_text

TRACKS = ("track_10min_16mb", "track_non_record_16mb", "track_pocket")
# Loss and bits per byte of one evaluation must name the same number of bytes, to this share of it.
IMPLIED_BYTES_TOLERANCE = 2e-4


def read_submission(path: Path) -> Submission:
    """The submission in `path`; raises UserError naming the field, its rule and its value where one is broken."""
    return _checked(read_json(path, "a submission"), str(path))


def write_submission(path: Path, submission: Submission) -> None:
    """Writes `submission` as sorted JSON in one step; raises UserError as `read_submission` does, before it writes."""
    tree = msgspec.to_builtins(submission, str_keys=True)
    check_finite(tree, path.name)
    _checked(tree, path.name)
    write_text(path, json.dumps(tree, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def check_track(track: str) -> None:
    """Raises UserError unless `track` is a folder name of the competition's form."""
    rule = f"a name like {', '.join(TRACKS)}"
    _require(re.fullmatch(r"track_[a-z0-9_]+", track), "track", f"{rule}; {nearest(track, TRACKS)}", repr(track))


def _checked(tree: Any, source: str) -> Submission:
    """`tree` as a submission: first the types, seed by seed for messages that name the seed, then what must agree."""
    results = tree.get("seed_results") if isinstance(tree, dict) else None
    for seed, result in results.items() if isinstance(results, dict) else ():
        typed(result, SeedResult, f"{source}: seed_results.{seed}")
    submission = typed(tree, Submission, source)
    try:
        for check in _CHECKS:
            check(submission)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return submission


def _require(holds: object, field: str, rule: str, got: object) -> None:
    if not holds:
        raise UserError(f"{field} must be {rule}, got {got}")


def _check_texts(submission: Submission) -> None:
    check_track(submission.track)
    for field in Submission.__struct_fields__:
        text = getattr(submission, field)
        if isinstance(text, str):
            _require(text.strip() and len(text.splitlines()) == 1, field, "one line of text", repr(text))


def _check_seeds(submission: Submission) -> None:
    seeds, results = submission.seeds, sorted(submission.seed_results)
    _require(seeds and sorted(seeds) == results, "seeds", f"those of seed_results, {results}", seeds)


def _check_means(submission: Submission) -> None:
    for field in ("val_loss", "val_bpb"):
        values = [getattr(submission.seed_results[seed], field) for seed in submission.seeds]
        mean, std = mean_and_std(values)
        got_mean, got_std = getattr(submission, field), getattr(submission, f"{field}_std")
        _require(math.isclose(got_mean, mean, rel_tol=1e-9), field, f"the mean of the seeds, {mean}", got_mean)
        agrees = got_std == std or (None not in (std, got_std) and math.isclose(got_std, std, rel_tol=1e-6))
        _require(agrees, f"{field}_std", f"the sample deviation of the seeds, {std}", got_std)


def _check_sizes(submission: Submission) -> None:
    largest = max(result.artifact_bytes for result in submission.seed_results.values())
    sizes = {"bytes_model": ("the largest artifact", largest)}
    sizes["bytes_total"] = "bytes_code + bytes_model", submission.bytes_code + largest
    for field, (rule, size) in sizes.items():
        got = getattr(submission, field)
        _require(got == size, field, f"{rule}, {size}", got)


def _check_evaluation(submission: Submission) -> None:
    evaluation = submission.evaluation
    wanted = ["chunk", "documents"] if evaluation.protocol == STREAM else ["window", "stride"]
    given = [name for name in PROTOCOL_FIELDS if getattr(evaluation, name) is not None]
    _require(given == wanted, "evaluation", f"told by {' and '.join(wanted)} for {evaluation.protocol}", given)
    implied = implied_bytes(submission.val_loss, submission.val_bpb, evaluation.tokens)
    rule = f"tokens x val_loss / ln 2 / val_bpb, {implied}"
    close = math.isclose(evaluation.implied_bytes, implied, rel_tol=1e-9)
    _require(close, "evaluation.implied_bytes", rule, evaluation.implied_bytes)
    for seed, result in submission.seed_results.items():
        got = implied_bytes(result.val_loss, result.val_bpb, evaluation.tokens)
        close = math.isclose(got, evaluation.bytes, rel_tol=IMPLIED_BYTES_TOLERANCE)
        rule = f"what the scores of seed {seed} imply, {got:.0f}, within 0.02 %"
        _require(close, "evaluation.bytes", rule, evaluation.bytes)


def _check_compliance(submission: Submission) -> None:
    results = list(submission.seed_results.values())
    proved = judged(results, submission.bytes_total, submission.train_seconds_cap, submission.budget)
    for field in Compliance.__struct_fields__:
        rule, got = getattr(proved, field), getattr(submission.compliance, field)
        _require(got == rule, f"compliance.{field}", f"{rule} by the figures", got)


def _check_calibration(submission: Submission) -> None:
    """A share of the peak is what the other figures make it."""
    for seed, result in submission.seed_results.items():
        told = [name for name in CALIBRATION_FIELDS if getattr(result, name) is not None]
        rule = f"told with all of {', '.join(CALIBRATION_FIELDS)}, or not at all"
        _require(len(told) in (0, len(CALIBRATION_FIELDS)), f"seed_results.{seed}", rule, told)
        if told:
            share = result.model_flops / result.train_time_s / (1e9 * result.bf16_peak_gflops)
            close = math.isclose(result.share_of_peak, share, rel_tol=1e-6)
            rule = f"model_flops a second over the bf16 peak, {share:.6g}"
            _require(close, f"seed_results.{seed}.share_of_peak", rule, result.share_of_peak)


_CHECKS = (
    _check_texts,
    _check_seeds,
    _check_means,
    _check_sizes,
    _check_evaluation,
    _check_compliance,
    _check_calibration,
)
