"""The figures of a submission, all of them computed from finished runs and from the files of the record folder."""

import datetime
from pathlib import Path
from typing import Any

from records.evidence import Evidence
from records.fields import (
    CALIBRATION_FIELDS,
    PROTOCOL_FIELDS,
    Evaluation,
    SeedResult,
    Submission,
    implied_bytes,
    judged,
    mean_and_std,
)
from runtime.files import sha256_of
from runtime.source import source_hash, source_sizes


def submission_of(
    runs: list[Evidence],
    folder: Path,  # of the record, code and first model already in it
) -> Submission:
    """The submission of `runs`; code and first model are measured where they lie now, in `folder`."""
    first, facts = runs[0], runs[0].facts
    results = {run.facts.seed: _seed_result(run, run.path / "model.bin") for run in runs}
    results[facts.seed] = _seed_result(first, folder / "model.bin")
    scores, sizes = _scores(results), _sizes(results, folder)
    return Submission(
        **_origin(first),
        **scores,
        **sizes,
        date=latest_date(runs),
        seeds=list(results),
        seed_results=results,
        evaluation=_evaluation(first, scores["val_loss"], scores["val_bpb"]),
        train_seconds_cap=facts.train_seconds_cap,
        budget=facts.budget,
        code_sha256=source_hash(folder),
        compliance=judged(list(results.values()), sizes["bytes_total"], facts.train_seconds_cap, facts.budget),
    )


def latest_date(runs: list[Evidence]) -> datetime.date:
    """The day on which the last of the runs was started."""
    return max(run.facts.started.date() for run in runs)


def without_seed(overrides: list[str]) -> list[str]:
    """The overrides but for the seed, in either spelling.

    >>> without_seed(["--train.seconds", "30", "--train.seed", "42", "--train.seed=7"])
    ['--train.seconds', '30']
    """
    words, kept = iter(overrides), []
    for word in words:
        if word == "--train.seed":
            next(words, None)
        elif not word.startswith("--train.seed="):
            kept.append(word)
    return kept


def _seed_result(run: Evidence, artifact: Path) -> SeedResult:
    return SeedResult(
        val_loss=run.score.val_loss,
        val_bpb=run.score.val_bpb,
        artifact_bytes=artifact.stat().st_size,
        artifact_sha256=sha256_of(artifact),
        steps=run.trained.step,
        step_avg_ms=1000 * run.trained.train_seconds / max(1, run.trained.step),
        train_time_s=run.trained.train_seconds,
        eval_time_s=run.score.seconds,
        tokens_seen=run.trained.tokens,
        **_calibration(run),
    )


def _calibration(run: Evidence) -> dict[str, float]:
    """What the machine can do and what training made of it; nothing where the log does not tell all of it."""
    start, trained = run.start, run.trained
    peaks = [start.bf16_peak_gflops, start.fp32_peak_gflops]
    if None in (*peaks, trained.model_flops, trained.share_of_peak):
        return {}
    told = [peak * start.world_size for peak in peaks] + [trained.model_flops, trained.share_of_peak]
    return dict(zip(CALIBRATION_FIELDS, told, strict=True))


def _origin(run: Evidence) -> dict[str, Any]:
    """Who made what, with what."""
    facts, start = run.facts, run.start
    overrides = without_seed(facts.overrides)
    kinds = ", ".join(sorted({entry.kind for entry in run.ledger.entries}))
    words = " ".join([facts.recipe, *overrides])
    return {
        "author": facts.record.author,
        "github_id": facts.record.github_id,
        "name": facts.record.title,
        "blurb": facts.record.blurb,
        "track": facts.record.track,
        "recipe": facts.recipe,
        "overrides": overrides,
        "fingerprint": facts.fingerprint,
        "hardware": start.hardware,
        "pytorch_version": start.torch,
        "python_version": start.python,
        "technique_summary": f"Recipe {words}: {start.parameters:,} parameters, stored as {kinds}.",
    }


def _scores(results: dict[int, SeedResult]) -> dict[str, float | None]:
    val_loss, val_loss_std = mean_and_std([result.val_loss for result in results.values()])
    val_bpb, val_bpb_std = mean_and_std([result.val_bpb for result in results.values()])
    return {"val_loss": val_loss, "val_loss_std": val_loss_std, "val_bpb": val_bpb, "val_bpb_std": val_bpb_std}


def _sizes(results: dict[int, SeedResult], folder: Path) -> dict[str, int]:
    code = sum(source_sizes(folder).values())
    model = max(result.artifact_bytes for result in results.values())
    return {"bytes_code": code, "bytes_model": model, "bytes_total": code + model}


def _evaluation(run: Evidence, val_loss: float, val_bpb: float) -> Evaluation:
    score = run.score
    implied = implied_bytes(val_loss, val_bpb, score.tokens)
    return Evaluation(
        protocol=score.protocol,
        **{name: getattr(score, name) for name in PROTOCOL_FIELDS},
        tokens=score.tokens,
        bytes=score.bytes,
        implied_bytes=implied,
    )
