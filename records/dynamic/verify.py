"""The dynamic judge: a record is run again without network, training text or a future, and what it does is measured.

For our own records everything is built in. For any other, `--scorer file.py:function` says how to ask its model:

    function(artifact_path) -> scorer
    scorer.log_probs(tokens, state) -> (rows, state)

`tokens` [T] int64 are the next T tokens of a text, `state` is what the last call returned (None at its start), `rows`
[T, V] are log-probabilities of what follows each of them. An adaptive scorer may learn from tokens it was given and
says `adaptive = True`; one that keeps documents apart says `isolates_documents = True`. The judge chooses the texts and
the pieces in which they are given.
"""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from records.dynamic.claimed import artifact_of, read_claimed
from records.dynamic.command_stage import judge_command
from records.dynamic.documents import documents_probe
from records.dynamic.rules import Probe, broken, probe_of
from records.dynamic.sandbox import SandboxLimits, confinement_of, peak_child_memory
from records.dynamic.scorer_stage import judge_scorer
from records.dynamic.stage import Case
from records.dynamic.texts import open_judged_text
from records.dynamic.verification import Verification
from records.judge.finding import Finding, Verdict, by_weight
from runtime.errors import UserError

_OWN_SCORER = f"{Path(__file__).with_name('own_scorer.py')}:sixteen_scorer"


@dataclass(frozen=True)
class VerifyOptions:
    """How a record is verified; None: what the record and the data folder suggest."""

    scorer: str | None = None  # file.py:function
    tokens: int = 16_384  # that the scorer is asked for, about
    artifact: str | None = None  # its name in the record
    tokenizer: Path | None = None
    limits: SandboxLimits = field(default_factory=SandboxLimits)


def verify_record(folder: Path, data: Path, options: VerifyOptions) -> Verification:
    """The verification of the record `folder` on the validation split in `data`; raises for nothing that they hold."""
    start = time.monotonic()
    try:
        case = _case_of(folder, data, options)
    except UserError as error:
        finding = Finding("invalid", "not-readable", str(error), str(folder))
        return Verification(Verdict(str(folder), False, (finding,)), seconds=time.monotonic() - start)
    # Copies of the artifact and the data live as long as their stage.
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        probes = [documents_probe(case.text), *judge_command(case, Path(scratch)), *judge_scorer(case, Path(scratch))]
    held = confinement_of(case.text.folder.resolve())
    if not held.is_kernels:
        probes.append(_held_by_python(held.says))
    findings = by_weight([finding for probe in probes for finding in probe.findings])
    figures = {**case.figures, "peak_memory_bytes": peak_child_memory()}
    return Verification(
        Verdict(str(folder), True, findings), tuple(probes), held.says, time.monotonic() - start, figures
    )


def _case_of(folder: Path, data: Path, options: VerifyOptions) -> Case:
    """Everything that is judged, read. Raises UserError for what is not there."""
    claimed = read_claimed(folder)
    if options.scorer is None and not claimed.is_ours:
        raise UserError(
            f"a record that is not one of this pipeline needs --scorer file.py:function, got none for {folder}; "
            "records/dynamic/verify.py tells what the function must do"
        )
    scorer = _OWN_SCORER if options.scorer is None else _existing(options.scorer)
    if options.tokens < 1024:
        raise UserError(f"--tokens must be at least 1024, got {options.tokens}; nearest 1024")
    artifact = artifact_of(folder, options.artifact)
    text = open_judged_text(data, options.tokenizer)
    return Case(folder, artifact, claimed, text, scorer, options.tokens, options.limits)


def _existing(scorer: str) -> str:
    path, _, name = scorer.rpartition(":")
    if not Path(path).is_file() or not name.isidentifier():
        raise UserError(f"--scorer must be file.py:function with a file that is there, got {scorer!r}")
    return f"{Path(path).resolve()}:{name}"


def _held_by_python(says: str) -> Probe:
    message = "files and connections of C libraries and of other programs were not watched"
    return probe_of("sandbox", says, [broken("sandbox", message, says)])
