"""README.md of a record: what it is, the score of each seed, where the bytes went, and how to make it again."""

import shlex
from collections.abc import Sequence

from records.evidence import Evidence
from records.fields import POCKET_FLOPS, SeedResult, Submission, protocol_words
from records.run_files import LedgerFacts
from runtime.source import CODE_FILE, READABLE_FILE


def record_readme(
    submission: Submission,
    runs: list[Evidence],  # in the order of submission.seeds
    logs: list[str],  # file name of each run's log
) -> str:
    """The text of the README, from figures alone."""
    sections = [
        f"# {submission.name}\n\n{submission.blurb}\n\n{_summary(submission, runs)}",
        f"## Score\n\n{_scores(submission, runs)}",
        *_machine_section(submission),
        f"## Bytes\n\n{_bytes(submission, runs[0].ledger)}",
        f"## Rules\n\n{_rules(submission)}",
        f"## How to make it again\n\n{_commands(submission, runs)}",
        f"## Files\n\n{_files(logs)}",
    ]
    return "\n\n".join(sections) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]], rest: str = "---:") -> str:
    """A table with its first column flush left and the others as `rest` says, by default right."""
    lines = [head, ["---", *[rest] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def training_command(overrides: list[str], world_size: int, seed: int) -> str:
    """The command line that trains this seed, from the folder that holds the counted file."""
    words = [CODE_FILE, *overrides, "--train.seed", str(seed)]
    return f"torchrun --standalone --nproc_per_node={world_size} {shlex.join(words)}"


def _summary(submission: Submission, runs: list[Evidence]) -> str:
    return (
        f"{submission.val_bpb:.6f} bits per byte in {submission.bytes_total:,} bytes "
        f"({_count(len(runs), 'seed')}, {submission.hardware}, {_count(runs[0].start.world_size, 'rank')}, "
        f"PyTorch {submission.pytorch_version}, Python {submission.python_version}). By {submission.author} "
        f"({submission.github_id}), {submission.date}, for {submission.track}.\n\n{submission.technique_summary}"
    )


def _scores(submission: Submission, runs: list[Evidence]) -> str:
    """One row a seed, then mean and deviation."""
    head = ["seed", "val_loss", "val_bpb", "before packing", "steps", "ms a step", "train s", "eval s", "bytes"]
    rows = [_score_row(run, submission.seed_results[run.facts.seed]) for run in runs]
    losses = _deviated(submission.val_loss, submission.val_loss_std)
    bits = _deviated(submission.val_bpb, submission.val_bpb_std)
    if len(runs) > 1:
        rows.append(
            [f"mean ± deviation, n = {len(runs)}", losses, bits, *[""] * 5, f"at most {submission.bytes_model:,}"]
        )
    evaluation = submission.evaluation
    return (
        f"{markdown_table(head, rows)}\n\n"
        f"val_loss is nats a token, val_bpb bits per byte, both of the model read back from its file: "
        f"{protocol_words(evaluation)}, {evaluation.tokens:,} tokens of "
        f"{evaluation.bytes:,} bytes, each scored once. *before packing* is val_bpb of the unquantised weights "
        f"({runs[0].validation.weights}) in non-overlapping windows. "
        f"{'The deviation is the sample (n - 1) one.' if len(runs) > 1 else 'n = 1, so there is no deviation.'}"
    )


def _score_row(run: Evidence, result: SeedResult) -> list[str]:
    return [
        str(run.facts.seed),
        f"{result.val_loss:.6f}",
        f"{result.val_bpb:.6f}",
        f"{run.validation.val_bpb:.4f}",
        f"{result.steps:,}",
        f"{result.step_avg_ms:.2f}",
        f"{result.train_time_s:.1f}",
        f"{result.eval_time_s:.1f}",
        f"{result.artifact_bytes:,}",
    ]


def _machine_section(submission: Submission) -> list[str]:
    """What the machine was measured to do and what training made of it; nothing of a record that does not tell."""
    results = submission.seed_results
    rows = [_machine_row(seed, results[seed]) for seed in submission.seeds if results[seed].model_flops]
    if not rows:
        return []
    head = ["seed", "bf16 peak", "fp32 peak", "tokens seen", "model FLOPs", "share of bf16 peak"]
    return [
        f"## Machine\n\n{markdown_table(head, rows)}\n\n"
        f"Peaks are the best of a few square matrix products before training, in GFLOP/s over all ranks. Model FLOPs "
        f"are those of the training tokens through every matrix and mixer, forward and backward."
    ]


def _machine_row(seed: int, result: SeedResult) -> list[str]:
    return [
        str(seed),
        f"{result.bf16_peak_gflops:.1f}",
        f"{result.fp32_peak_gflops:.1f}",
        f"{result.tokens_seen:,}",
        f"{result.model_flops:.4g}",
        f"{result.share_of_peak:.3f}",
    ]


def _bytes(submission: Submission, ledger: LedgerFacts) -> str:
    """The ledger of model.bin: tensors by group, code as one sum."""
    rows = [(f"`{entry.group}` {entry.kind}", entry.data + entry.scales) for entry in ledger.entries]
    rows += [("header", ledger.header), ("checksum", ledger.checksum), ("model.bin", ledger.model_total)]
    rows += [*ledger.code.items(), ("total", ledger.total)]
    cells = [(name, f"{size:,}", f"{100 * size / ledger.total:.1f}%") for name, size in rows]
    return (
        f"{markdown_table(['entry', 'bytes', 'share'], cells)}\n\n"
        f"model.bin and its ledger are those of seed {submission.seeds[0]}. What counts is the code, "
        f"{submission.bytes_code:,}, and the largest artifact over the seeds, {submission.bytes_model:,}: "
        f"{submission.bytes_total:,} bytes of the {submission.budget:,} allowed."
    )


def _rules(submission: Submission) -> str:
    compliance, cap = submission.compliance, submission.train_seconds_cap
    under_cap = "there is no cap" if cap is None else _yes(compliance.train_under_cap)
    rows = [
        (f"training within {cap:g} s, the last step included" if cap else "training within its cap", under_cap),
        *_flops_rule(submission),
        ("evaluation within 600 s", _yes(compliance.eval_under_600s)),
        (f"code and model within {submission.budget:,} bytes", _yes(compliance.artifact_under_budget)),
        ("three seeds or more", _yes(compliance.three_seeds)),
    ]
    return f"{markdown_table(['rule', 'holds'], rows)}\n\nAs measured on the hardware above."


def _flops_rule(submission: Submission) -> list[tuple[str, str]]:
    """The pocket's other budget, where the clock was none."""
    spent = [result.model_flops for result in submission.seed_results.values()]
    if submission.train_seconds_cap or submission.track != "track_pocket" or None in spent:
        return []
    return [(f"training within {POCKET_FLOPS:.3g} model FLOPs", _yes(max(spent) <= POCKET_FLOPS))]


def _commands(submission: Submission, runs: list[Evidence]) -> str:
    ranks = runs[0].start.world_size
    commands = [training_command(submission.overrides, ranks, seed) for seed in submission.seeds]
    return "\n".join(
        [
            f"`{CODE_FILE}` needs nothing of this folder but itself; a run writes runs/ where it is started.",
            "",
            "```",
            "pip install -r requirements.txt",
            "export DATA_PATH=...        # the folder of the shards; TOKENIZER_PATH where the tokenizer lies elsewhere",
            *commands,
            f"python {CODE_FILE} --score model.bin",
            "```",
            "",
            f"`{READABLE_FILE}` takes the same commands and does the same. Where the counted file ends in an error, it "
            f"names the line of the readable one that has the sentence.",
        ]
    )


def _files(logs: list[str]) -> str:
    rows = [
        ("submission.json", "every figure above, and more"),
        (", ".join(logs), "what the run said" if len(logs) == 1 else "what each run said"),
        ("model.bin", "the packed model of the first seed"),
        ("ledger.json", "who costs how many bytes of model.bin and the code"),
        ("requirements.txt", "what must be installed"),
        (CODE_FILE, "the code: the one file that is counted, packed"),
        (READABLE_FILE, "the same code before it was minified and packed, for people; not counted"),
    ]
    return markdown_table(["file", "what it is"], rows, rest="---")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _deviated(mean: float, std: float | None) -> str:
    return f"{mean:.6f}" if std is None else f"{mean:.6f} ± {std:.6f}"


def _yes(holds: bool | None) -> str:
    return "yes" if holds else "no"
