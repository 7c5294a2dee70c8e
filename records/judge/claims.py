"""What submission.json claims, in any of the forms that the competition has seen; says which form it was.

There never was a schema: the score may be val_bpb, mean_val_bpb or mean_bpb, may stand under val_loss, the seeds may be
a list of numbers or an object of results.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from records.typed_json import parse_json
from runtime.errors import UserError

VARIANTS = {
    "name": ("name", "run_name", "title", "submission_name"),
    "author": ("author", "author_name", "authors", "submitter"),
    "github_id": ("github_id", "author_github", "github", "github_username", "submitter"),
    "blurb": ("blurb", "description", "notes", "technique_summary", "summary"),
    "date": ("date", "submission_date", "created_at"),
    "track": ("track", "category"),
    "val_bpb": ("val_bpb", "mean_val_bpb", "val_bpb_mean", "mean_bpb", "final_val_bpb", "bpb", "score",
                "val_bpb_3seed_mean"),
    "val_loss": ("val_loss", "mean_val_loss", "val_loss_mean", "mean_val_loss_nats", "val_loss_nats", "final_val_loss"),
    "val_bpb_std": ("val_bpb_std", "std_val_bpb", "std_bpb", "bpb_std"),
    "val_loss_std": ("val_loss_std", "std_val_loss", "val_loss_nats_std", "std_val_loss_nats"),
    "bytes_total": ("bytes_total", "total_bytes", "artifact_bytes_max", "artifact_bytes", "artifact_size_bytes",
                    "submission_bytes", "total_submission_bytes", "bytes_total_max", "artifact_size", "size_bytes"),
    "bytes_code": ("bytes_code", "code_bytes", "code_size_bytes", "code_size"),
    "bytes_model": ("bytes_model", "model_bytes", "bytes_model_int8_zlib", "compressed_model_bytes", "bytes_weights"),
    "train_seconds": ("train_time_s", "training_time_seconds", "wallclock_seconds", "train_seconds",
                      "train_wallclock_s", "train_time_max_s"),
    "eval_seconds": ("eval_time_s", "eval_time_seconds", "eval_seconds", "eval_time_max_s"),
    "baseline_bpb": ("comparison_baseline_bpb", "base_val_bpb", "baseline_bpb", "sota_bpb", "prior_best_bpb"),
    "budget": ("budget",),
    "train_cap": ("train_seconds_cap",),
    "hardware": ("hardware", "platform", "gpu"),
}  # fmt: skip
_SEEDS = ("seed_results", "seeds", "per_seed", "results_per_seed", "seed_val_bpb", "per_seed_bpb", "results")
_SEED_FIELDS = {
    "val_bpb": VARIANTS["val_bpb"],
    "val_loss": VARIANTS["val_loss"],
    "bytes_total": ("bytes_total", "total_bytes", "artifact_bytes", "artifact_size_bytes"),
    "train_seconds": ("train_time_s", "train_seconds", "train_wallclock_s", "training_time_seconds"),
    "eval_seconds": ("eval_time_s", "eval_seconds", "eval_time_seconds", "total_eval_time_s"),
    "model_flops": ("model_flops",),
}
# A loss in nats is above this for every tokenizer of the competition, a score in bits per byte below it.
_LEAST_LOSS = 1.45


@dataclass(frozen=True)
class Claims:
    """The claims by our names for them; `used` says which key each stood under. Numbers are finite."""

    values: dict[str, Any] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()  # listed, or those with results
    results: dict[int, dict[str, float]] = field(default_factory=dict)
    tree: dict[str, Any] = field(default_factory=dict)
    strange: tuple[str, ...] = ()  # what stood where something else belongs

    def number(self, name: str) -> float | None:
        """A claim that is a number."""
        value = self.values.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def text(self, name: str) -> str:
        """A claim that is a text, "" where there is none."""
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    def seed_values(self, name: str) -> list[float]:
        """The claims of the seeds that have this one."""
        return [result[name] for result in self.results.values() if name in result]

    @property
    def evaluation(self) -> dict[str, Any]:
        """Our own record of the evaluation: its tokens and bytes."""
        held = self.tree.get("evaluation")
        return held if isinstance(held, dict) else {}


def read_claims(data: bytes, source: str) -> Claims:
    """The claims in a submission.json. Raises UserError when it is no JSON object."""
    try:
        tree = parse_json(data.decode("utf-8-sig", errors="replace"), source)
    except RecursionError as error:
        raise UserError(f"{source} must be JSON of reasonable depth") from error
    if not isinstance(tree, dict):
        raise UserError(f"{source} must be an object, got {type(tree).__name__}")
    values, used, strange = _first_known(tree, VARIANTS)
    results, seeds = _seeds(tree)
    claims = Claims(values, used, seeds, results, tree, tuple(strange))
    return _with_the_score_under_its_name(claims)


def _first_known(tree: dict, variants: dict[str, tuple[str, ...]]) -> tuple[dict, dict, list[str]]:
    """The first key of each claim that holds something, and what held nothing usable."""
    values, used, strange = {}, {}, []
    for name, keys in variants.items():
        for key in keys:
            value = _usable(tree.get(key), name)
            if value is not None:
                values[name], used[name] = value, key
                break
            if tree.get(key) is not None and key == keys[0]:
                strange.append(f"{key} is {str(tree[key])[:40]!r}")
    return values, used, strange


_TEXTS = {"name", "author", "github_id", "blurb", "date", "track", "hardware"}


def _usable(value: Any, name: str) -> Any:
    """A text or a finite number, whichever the claim is; numbers may be written as text."""
    if name in _TEXTS:
        value = ", ".join(map(str, value)) if isinstance(value, list) else value
        return value.strip() or None if isinstance(value, str) else None
    return _number(value)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value.replace(",", "").replace("_", "").strip()[:40])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 1e15 and math.isfinite(value) else None


def _seeds(tree: dict) -> tuple[dict[int, dict[str, float]], tuple[int, ...]]:
    """Results by seed, and the seeds that the submission lists."""
    results: dict[int, dict[str, float]] = {}
    for key in _SEEDS:
        for seed, result in _entries(tree.get(key)):
            held = result if isinstance(result, dict) else {"val_bpb": result}
            found = _first_known(held, _SEED_FIELDS)[0]
            results.setdefault(seed, {}).update(
                {name: value for name, value in found.items() if name not in results[seed]}
            )
    listed = tree.get("seeds")
    numbers = [_whole(seed) for seed in listed] if isinstance(listed, list) else []
    seeds = tuple(seed for seed in numbers if seed is not None) or tuple(results)
    if not seeds and _whole(tree.get("seed")) is not None:
        seeds = (_whole(tree["seed"]),)
    return {seed: result for seed, result in results.items() if result}, seeds


def _entries(held: Any) -> list[tuple[int, Any]]:
    """(seed, result) of an object keyed by seed or of a list of objects that name theirs."""
    if isinstance(held, dict):
        pairs = [(key, value) for key, value in held.items()]
    elif isinstance(held, list):
        pairs = [(entry.get("seed"), entry) for entry in held if isinstance(entry, dict)]
    else:
        pairs = []
    return [(seed, value) for key, value in pairs if (seed := _whole(key)) is not None]


def _whole(value: Any) -> int | None:
    """A seed: 42, "42" or "seed_42"."""
    text = str(value).lower().removeprefix("seed").strip(" _-=:") if not isinstance(value, (float, bool)) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _with_the_score_under_its_name(claims: Claims) -> Claims:
    """Bits per byte that stand under val_loss alone, moved to where they belong."""
    loss = claims.number("val_loss")
    if loss is None or "val_bpb" in claims.values or not 0 < loss < _LEAST_LOSS:
        return claims
    values = {**claims.values, "val_bpb": loss}
    del values["val_loss"]
    used = {name: key for name, key in claims.used.items() if name != "val_loss"}
    return Claims(values, {**used, "val_bpb": claims.used["val_loss"]}, *_rest(claims))


def _rest(claims: Claims) -> tuple:
    return claims.seeds, claims.results, claims.tree, claims.strange
