"""The second stage: the scorer answers the judge's texts, with nothing of the validation split but what it is given."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from records.dynamic.bench import MAX_CHUNK, ScorerBench, nats_of, plan_of
from records.dynamic.probes import run_probes
from records.dynamic.rescoring import rescore_probe
from records.dynamic.rules import Probe, broken, probe_of
from records.dynamic.session import ScorerSession
from records.dynamic.stage import STAGE_ERRORS, Case, ShortText, conduct_probes, ended_by, new_sandbox
from records.dynamic.survey import normalisation_probe, packed_documents_probe, score_by_position

# Nats a token between the scorer and the record's own command: the same in fp32, and at most in low precision.
_BOUND, _BOUND_AT_MOST = 1e-3, 0.02


def judge_scorer(case: Case, scratch: Path) -> Iterator[Probe]:
    """Every probe of the scorer, then how it behaved."""
    sandbox = new_sandbox(case, scratch / "scorer")
    record = sandbox.scratch / "record"
    # Links stay links: what they lead to counts as opened outside.
    shutil.copytree(case.folder, record, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    data = sandbox.scratch / "data"
    data.mkdir()
    shutil.copyfile(case.text.tokenizer_path, data / "tokenizer.model")
    copy = record / case.artifact.relative_to(case.folder)
    environment = {"DATA_PATH": str(data), "TOKENIZER_PATH": str(data / "tokenizer.model")}
    session = ScorerSession(sandbox, case.scorer, copy, case.text.vocab_size, **environment)
    bench = ScorerBench(session, case.text, plan_of(case.tokens), int(case.figures["artifact_sha256"][:8], 16))
    try:
        yield from _probed(case, bench)
    except STAGE_ERRORS as error:
        yield ended_by(error, "the scorer")
    finally:
        session.end()
    yield normalisation_probe(bench)
    yield from conduct_probes(case, sandbox, "the scorer", copy, Path(case.scorer.rpartition(":")[0]).parent)


def _probed(case: Case, bench: ScorerBench) -> Iterator[Probe]:
    yield from run_probes(bench)
    yield packed_documents_probe(bench, case.claimed.isolation)
    case.figures["score_by_position"] = score_by_position(bench)
    if case.short:
        yield _like_the_command(case.short, bench)
    if not case.claimed.is_ours:
        yield _streamed(case, bench)


def _like_the_command(short: ShortText, bench: ScorerBench) -> Probe:
    """Whether the probed scorer, in windows or a stream as is claimed, scores what the record's own command does."""
    tokens, nats = short.tokens.astype(np.int64), []
    for start, end, scored in short.spans():
        rows = bench.rows(tokens[start:end], [MAX_CHUNK])[-scored:]
        nats.append(nats_of(rows, tokens[end - scored + 1 : end + 1]))
    mean, spans = float(np.concatenate(nats).mean()), len(nats)
    evidence = f"{spans} spans: the command {short.val_loss:.6f}, the scorer {mean:.6f} nats a token"
    findings, apart = [], abs(mean - short.val_loss)
    if apart > _BOUND:
        severity = "doubtful" if apart <= _BOUND_AT_MOST else None
        findings.append(broken("other-scorer", f"{apart:.2e} nats a token apart", evidence, severity))
    return probe_of("scorer is the command", f"{apart:.1e} nats a token apart on {spans} spans", findings)


def _streamed(case: Case, bench: ScorerBench) -> Probe:
    """The score of the whole split in one stream, where the budget reaches so far."""
    text = case.text
    if case.tokens < text.num_targets:
        measured = f"the budget of {case.tokens:,} tokens is below the split's {text.num_targets:,}; --tokens raises it"
        return Probe("re-score", None, measured)
    bench.session.fresh()
    nats = 0.0
    # In the pieces of the tests, so that a scorer cannot tell one from the other.
    for start in range(0, text.num_targets, bench.plan.chunk):
        piece = text.tokens[start : start + bench.plan.chunk + 1].astype(np.int64)
        nats += float(nats_of(bench.checked(piece[:-1], start), piece[1:]).sum())
    bpb = nats / math.log(2) / text.decoded_bytes()
    case.figures |= {"rescored_bpb": bpb}
    return rescore_probe(case.claimed, bpb, "as a stream")
