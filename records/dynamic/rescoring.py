"""The score again, from the artifact alone, by the record's own command; every target once, every byte of the text.

The counted file and the artifact lie in a folder of their own, with the validation shards and the tokenizer; where
training shards would be, there are empty files of their names, since loaders look for them.
"""

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from records.dynamic.claimed import ClaimedScore
from records.dynamic.rules import Probe, broken, probe_of
from records.dynamic.sandbox import Sandbox, end_process
from records.dynamic.session import MemoryLimitError, ScorerError, TimeLimitError, is_out_of_memory
from records.dynamic.texts import JudgedText, shard_bytes
from records.log_grammar import parse_log
from runtime.source import CODE_FILE

# Bits per byte: within the first a score is the same, beyond the second no machine's rounding explains it.
SCORE_TOLERANCE, SCORE_ROUNDING = 1e-6, 5e-4
BYTES_TOLERANCE = 2e-4
_COUNTS = re.compile(r"\btokens:(\d+) bytes:(\d+)")


@dataclass(frozen=True)
class CommandScore:
    """What the record's own command said."""

    val_bpb: float
    val_loss: float
    tokens: int
    bytes: int
    seconds: float  # of the whole process


def lay_out_command(sandbox: Sandbox, record: Path, artifact: Path) -> Path:
    """The folder that the command runs in: the code that is counted, and the artifact."""
    folder = sandbox.scratch / "record"
    folder.mkdir()
    shutil.copyfile(artifact, folder / artifact.name)
    shutil.copyfile(record / CODE_FILE, folder / CODE_FILE)
    return folder


def lay_out_data(sandbox: Sandbox, text: JudgedText, tokens: np.ndarray | None = None) -> Path:
    """A data folder without training text; `tokens` instead of the validation split where they are given."""
    folder = sandbox.scratch / ("data" if tokens is None else "short")
    folder.mkdir()
    shutil.copyfile(text.tokenizer_path, folder / "tokenizer.model")
    if tokens is not None:
        (folder / "short_val_000000.bin").write_bytes(shard_bytes(tokens))
    for shard in text.shards if tokens is None else ():
        shutil.copyfile(shard, folder / shard.name)
    for name in text.train_names or ("none_train_000000.bin",):
        (folder / name).touch()
    return folder


def run_command_in(
    sandbox: Sandbox,
    folder: Path,  # of the code
    artifact: str,
    data: Path,
    plain_window: int | None = None,  # windows of so many tokens that do not overlap; None: the record's own
) -> CommandScore:
    """Scores the artifact with the record's own command. Raises as a scorer session does."""
    command = [CODE_FILE, "--score", artifact]
    if plain_window:
        command += ["--window", str(plain_window), "--stride", str(plain_window)]
    environment = {"DATA_PATH": str(data), "TOKENIZER_PATH": str(data / "tokenizer.model")}
    start = time.monotonic()
    process = sandbox.start(command, folder, **environment)
    try:
        output, _ = process.communicate(timeout=sandbox.limits.seconds)
    except subprocess.TimeoutExpired as error:
        end_process(process, 0)
        raise TimeLimitError(f"not done after {sandbox.limits.seconds:g} s") from error
    seconds, said = time.monotonic() - start, sandbox.last_error()
    if process.returncode:
        kind = MemoryLimitError if is_out_of_memory(said) else ScorerError
        raise kind(f"{' '.join(command)} ended with code {process.returncode}: {said}")
    return _parsed_score(output.decode("utf-8", errors="replace"), seconds)


def rescore_probe(claimed: ClaimedScore, again: float, how: str) -> Probe:
    """Whether the score is the claimed one."""
    if not claimed.val_bpb:
        finding = broken("rescore-missing", f"no score is claimed; {again:.8f} was found", "submission.json")
        return probe_of("re-score", f"{again:.8f} bits per byte", [finding])
    nearest = min(claimed.val_bpb, key=lambda value: abs(value - again))
    difference = abs(nearest - again)
    evidence = f"claimed {nearest:.8f}, {how} {again:.8f}"
    findings = []
    if difference > SCORE_ROUNDING:
        findings.append(broken("rescore-differs", f"{difference:.2e} bits per byte apart", evidence))
    elif difference > SCORE_TOLERANCE:
        why = f"another machine rounds otherwise; claimed on {claimed.hardware or 'unknown hardware'}"
        findings.append(
            broken("rescore-differs", f"{difference:.2e} bits per byte apart", evidence, "doubtful", "medium", why)
        )
    return probe_of("re-score", f"{evidence}, {difference:.1e} apart", findings)


def coverage_probe(text: JudgedText, tokens: dict[str, int | None], window: int | None) -> Probe:
    """Whether every target was scored once; `tokens` by who says so."""
    findings, targets = [], text.num_targets
    for who, count in tokens.items():
        evidence = f"{count:,} of {targets:,} targets ({who})" if count is not None else ""
        if count is None or count == targets:
            continue
        if count > targets:
            findings.append(broken("coverage", "more targets were scored than there are: some several times", evidence))
        elif targets - count < (window or 0):
            message = "the last targets, less than a window, were left out, as the organisers' script does"
            findings.append(broken("coverage", message, evidence, "note"))
        else:
            findings.append(broken("coverage", "a part of the validation split was scored", evidence))
    told = [f"{who} {count:,}" for who, count in tokens.items() if count is not None]
    measured = f"{targets:,} targets; {', '.join(told) or 'nobody tells how many were scored'}"
    return probe_of("coverage", measured, findings, None if not told else True)


def bytes_probe(
    text: JudgedText,
    tokens: int | None,  # that were scored; None: all
    counts: dict[str, float | None],  # bytes by who says so
) -> Probe:
    """Whether the bytes are those of the decoded text."""
    decoded, findings = text.decoded_bytes(min(tokens or text.num_targets, text.num_targets)), []
    for who, count in counts.items():
        if count is None or round(count) == decoded:
            continue
        ratio = count / decoded
        evidence = f"{count:,.0f} ({who}) against {decoded:,} decoded, ratio {ratio:.4f}"
        close = abs(ratio - 1) <= BYTES_TOLERANCE
        severity = "note" if close else None
        findings.append(broken("byte-accounting", "other bytes than the decoded text has", evidence, severity))
    told = [f"{who} {count:,.0f}" for who, count in counts.items() if count is not None]
    measured = f"{decoded:,} decoded; {', '.join(told) or 'nobody tells the bytes'}"
    return probe_of("bytes", measured, findings, None if not told else True)


def _parsed_score(output: str, seconds: float) -> CommandScore:
    score, counts = parse_log(output).final, _COUNTS.findall(output)
    if score is None or not counts:
        raise ScorerError(f"the scoring command must print val_loss, val_bpb, tokens and bytes, got {output[-200:]!r}")
    tokens, size = map(int, counts[-1])
    return CommandScore(score.val_bpb, score.val_loss, tokens, size, seconds)
