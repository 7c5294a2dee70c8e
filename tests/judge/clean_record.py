"""A record that breaks no rule, in memory, and the ways in which the tests break it: one change at a time."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

from records.judge.finding import SEVERITIES, Verdict
from records.judge.folder import folder_of
from records.judge.judge import judge_folder

SCRIPT = (Path(__file__).parent / "clean_script.txt").read_text(encoding="utf-8")
TOKENS, BYTES = 40_540_160, 151_080_000
SEEDS = {42: 1.0806, 1337: 1.0810, 2024: 1.0815}
MODEL = bytes(range(256)) * 12
NAME, TRACK = "2026-04-20_CleanBase", "track_10min_16mb"
Files = dict[str, bytes]
Mutation = Callable[[Files], None]

_README = """# Clean base

val_bpb 1.08103 (mean of three seeds: 1.08060, 1.08100, 1.08150), sp8192, 8 x H100.
"""


def loss_of(bpb: float, size: float = BYTES) -> float:
    """Nats a token for a score, over the published split."""
    return bpb * math.log(2) * size / TOKENS


def clean_files() -> Files:
    """The record by file name."""
    files = {
        "train_gpt.py": SCRIPT.encode(),
        "README.md": _README.encode(),
        "requirements.txt": b"torch\nnumpy\nsentencepiece\n",
        "final_model.int6.ptz": MODEL,
        "submission.json": json.dumps(clean_submission(), indent=1).encode(),
    }
    for seed, bpb in SEEDS.items():
        files[f"train_seed{seed}.log"] = clean_log(seed, bpb).encode()
    return files


def clean_submission() -> dict:
    """submission.json in the form of April 2026."""
    code, losses = len(SCRIPT.encode()), [loss_of(bpb) for bpb in SEEDS.values()]
    return {
        "author": "Sixteen",
        "github_id": "sixteen",
        "name": "Clean base, sp8192",
        "blurb": "A small script that breaks no rule.",
        "date": "2026-04-20",
        "track": "10min_16mb",
        "val_loss": statistics.fmean(losses),
        "val_bpb": statistics.fmean(SEEDS.values()),
        "val_loss_std": statistics.stdev(losses),
        "val_bpb_std": statistics.stdev(SEEDS.values()),
        "seeds": list(SEEDS),
        "seed_results": {
            str(seed): {
                "val_loss": loss_of(bpb),
                "val_bpb": bpb,
                "artifact_bytes": code + len(MODEL),
                "train_time_s": 592.054,
                "eval_time_s": 455.1,
            }
            for seed, bpb in SEEDS.items()
        },
        "bytes_total": code + len(MODEL),
        "bytes_code": code,
        "bytes_model": len(MODEL),
        "comparison_baseline_bpb": 1.0900,
        "hardware": "8xH100 80GB SXM",
    }


def clean_log(seed: int, bpb: float) -> str:
    """A log in the grammar of April 2026."""
    code, loss = len(SCRIPT.encode()), loss_of(bpb)
    lines = [
        "Hyperparameters:",
        "  gptq_reserve_seconds: 8.0",
        "  max_wallclock_seconds: 600.0",
        f"  seed: {seed}",
        "  val_doc_fraction: 1.0",
        "  vocab_size: 8192",
        "=" * 100,
        "train_shards: 80",
        f"val_tokens: {TOKENS}",
        "gptq:reserving 8.0s, effective=592000ms",
        "1/20000 train_loss: 9.0087 train_time: 0.0m tok/s: 11886047",
        "4500/20000 train_loss: 2.2830 train_time: 8.8m tok/s: 6671956",
        f"4942/20000 val_loss: {loss + 0.02:.4f} val_bpb: {bpb + 0.008:.4f}",
        "stopping_early: wallclock_cap train_time: 592054ms step: 4942/20000",
        "peak memory allocated: 41723 MiB reserved: 47090 MiB",
        "GPTQ:collected 67 Hessians in 3.5s",
        f"Serialized model int6+zlib: {len(MODEL)} bytes",
        f"Code size: {code} bytes",
        f"Total submission size int6+zlib: {code + len(MODEL)} bytes",
        f"diagnostic pre-quantization post-ema val_loss:{loss + 0.01:.8f} val_bpb:{bpb + 0.004:.8f} eval_time:9052ms",
        "ngram table: built in 12.0s",
        "beginning TTT eval timer",
        "ttt_phased: total_docs:50000 prefix_docs:2000",
        f"quantized_ttt val_loss:{loss:.8f} val_bpb:{bpb:.8f} eval_time:455100ms",
        "total_eval_time:455.1s",
    ]
    return "\n".join(lines) + "\n"


def judged(*mutations: Mutation, name: str = NAME, parent: str = TRACK) -> Verdict:
    """The verdict on the clean record after some changes."""
    files = clean_files()
    for mutation in mutations:
        mutation(files)
    return judge_folder(folder_of(files, name, parent))


def rules_of(verdict: Verdict, at_least: str = "note") -> set[str]:
    """The rules that found something of this weight or more."""
    least = SEVERITIES.index(at_least)
    return {finding.rule for finding in verdict.findings if SEVERITIES.index(finding.severity) >= least}


def in_file(name: str, old: str, new: str) -> Mutation:
    """Replaces the first `old`, which must be there."""

    def mutate(files: Files) -> None:
        text = files[name].decode()
        assert old in text, f"{old!r} is not in {name}"
        files[name] = text.replace(old, new, 1).encode()

    return mutate


def in_script(old: str, new: str) -> Mutation:
    """Changes the script and keeps the sizes that others tell of it right."""

    def mutate(files: Files) -> None:
        before = len(files["train_gpt.py"])
        in_file("train_gpt.py", old, new)(files)
        resize(files, before, len(files["train_gpt.py"]))

    return mutate


def resize(files: Files, before: int, after: int) -> None:
    """Every figure that says the script has `before` bytes says `after`, totals included."""
    pairs = {before: after, before + len(MODEL): after + len(MODEL)}
    for name in [name for name in files if name.endswith((".json", ".log"))]:
        text = files[name].decode()
        for old, new in pairs.items():
            text = text.replace(str(old), str(new))
        files[name] = text.encode()


def in_logs(old: str, new: str) -> Mutation:
    """Changes every log."""

    def mutate(files: Files) -> None:
        for name in [name for name in files if name.endswith(".log")]:
            in_file(name, old, new)(files)

    return mutate


def in_json(**changes: object) -> Mutation:
    """Sets fields of submission.json; None removes one."""

    def mutate(files: Files) -> None:
        tree = json.loads(files["submission.json"]) | changes
        files["submission.json"] = json.dumps({key: value for key, value in tree.items() if value is not None}).encode()

    return mutate


def with_file(name: str, data: bytes | str) -> Mutation:
    """Adds or replaces a file."""

    def mutate(files: Files) -> None:
        files[name] = data.encode() if isinstance(data, str) else data

    return mutate


def without(*names: str) -> Mutation:
    """Removes files."""

    def mutate(files: Files) -> None:
        for name in names:
            del files[name]

    return mutate
