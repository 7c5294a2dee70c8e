"""A record scored as a stream under both judges: the state carried through the text, or dropped at each document."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic.stranger import rules_of
from tiny_runs import ROOT, VOCAB, command, tiny

from data.bytecount import ByteTable
from data.tokenizer import BOS_ID
from eval.streaming import StreamConfig
from model.gpt import GPTConfig
from recipes.override import overridden
from recipes.recipe import load_recipe
from records.dynamic import command_stage
from records.dynamic.claimed import read_claimed
from records.dynamic.command_stage import judge_command
from records.dynamic.own_scorer import SixteenScorer
from records.dynamic.rescoring import CommandScore
from records.dynamic.sandbox import SandboxLimits
from records.dynamic.stage import Case
from records.dynamic.texts import open_judged_text
from records.dynamic.verify import VerifyOptions, verify_record
from records.judge.judge import judge_path
from runtime.machine import Machine

# No recipe of two layers has a bounded state; the texts here are short enough for one that grows.
RECIPE = '''\
"""The demo, scored as a stream."""

from dataclasses import dataclass, replace

from eval.streaming import StreamConfig
from model.gpt import GPTConfig
from recipes.demo import demo
from recipes.recipe import Recipe


@dataclass(frozen=True)
class ShortTextConfig(GPTConfig):
    has_bounded_state = True


def streamed() -> Recipe:
    recipe = demo()
    return replace(recipe, name="streamed", model=ShortTextConfig(**vars(recipe.model)), eval=StreamConfig(chunk=100))
'''
LEFT_OUT = (".*", "__pycache__", "runs", "datasets", "track_*", "tests")


@pytest.fixture(scope="module")
def stream_record(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The record of ten steps of a recipe that claims a stream, written by the run itself."""
    place = tmp_path_factory.mktemp("stream")
    copy = shutil.copytree(ROOT, place / "copy", ignore=shutil.ignore_patterns(*LEFT_OUT))
    (copy / "recipes" / "streamed.py").write_text(RECIPE)
    words = tiny("demo")
    changes = [f"{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True) if "--eval." not in name]
    arguments = [str(copy / "train_gpt.py"), "streamed", *changes, "--eval.documents", "restart"]
    done = command(arguments, place, PYTHONPATH=str(copy), DATA_PATH=str(tiny_data), RUN_ID="stream")
    assert done.returncode == 0, done.stderr
    assert "stream chunk=100 documents=restart val_loss:" in done.stdout
    return next(place.glob("records/*/*/submission.json")).parent


def test_a_record_of_a_stream_is_clean(stream_record, tiny_data):
    evaluation = json.loads((stream_record / "submission.json").read_text())["evaluation"]
    assert (evaluation["protocol"], evaluation["chunk"], evaluation["documents"]) == ("stream", 100, "restart")
    assert not {"window", "stride"} & set(evaluation)
    words = "stream in chunks of 100, the state dropped at the start of every document, "
    assert words in (stream_record / "README.md").read_text()
    assert [finding for finding in judge_path(stream_record).findings if finding.severity == "invalid"] == []
    verification = verify_record(stream_record, tiny_data, VerifyOptions(tokens=1024))
    assert rules_of(verification) == set(), verification.lines()
    measured = {probe.name: probe.measured for probe in verification.probes if probe.held}
    assert {"re-score", "coverage", "bytes", "chunks", "scorer is the command", "documents"} <= set(measured)
    assert not [finding for finding in verification.verdict.findings if finding.rule == "documents-attended"]
    figures = verification.figures
    assert figures["rescored_bpb"] == pytest.approx(figures["claimed_bpb"], abs=1e-6)
    assert "on 1 spans" in measured["scorer is the command"]


def test_the_command_and_the_scorer_meet_where_a_document_begins(stream_record, tiny_data, tmp_path, monkeypatch):
    asked = []

    def said(sandbox, folder, artifact, data, plain_window=None) -> CommandScore:
        asked.append((data.name, plain_window))
        text, bpb = open_judged_text(tiny_data), claimed.val_bpb[0]
        size = text.decoded_bytes()
        return CommandScore(bpb, bpb * math.log(2) * size / text.num_targets, text.num_targets, size, 1.0)

    monkeypatch.setattr(command_stage, "run_command_in", said)
    claimed, text = read_claimed(stream_record), open_judged_text(tiny_data)
    assert (claimed.window, claimed.chunk, claimed.isolation) == (None, 100, "submission.json says documents: restart")
    case = Case(stream_record, stream_record / "model.bin", claimed, text, "", 1024, SandboxLimits())
    assert [finding for probe in judge_command(case, tmp_path) for finding in probe.findings] == []
    assert asked == [("data", None), ("short", None)]
    # Three chunks, a document's first token among them, scored as one.
    assert len(case.short.tokens) == 301
    assert BOS_ID in case.short.tokens[100:200]
    assert case.short.spans() == [(0, 300, 300)]


@pytest.mark.parametrize("documents, restart", [("continue", -1), ("restart", BOS_ID)])
def test_our_scorer_carries_and_drops_the_state_as_the_evaluator(documents, restart, tiny_data, monkeypatch):
    monkeypatch.setattr(GPTConfig, "has_bounded_state", True, raising=False)
    model = overridden(load_recipe("demo"), tiny()).model.build().reset_parameters(3).eval()
    tokens = torch.from_numpy(open_judged_text(tiny_data).tokens[:900].astype(np.int64))
    table = ByteTable(torch.ones(VOCAB, dtype=torch.int16), *torch.zeros(2, VOCAB, dtype=torch.bool))
    score, _ = StreamConfig(64, documents).score(model, tokens, table, Machine())
    scorer, state, nats = SixteenScorer(model, restart), None, 0.0
    for piece in range(0, 899, 37):
        rows, state = scorer.log_probs(tokens[piece : min(piece + 37, 899)].numpy(), state)
        nats -= float(rows.gather(1, tokens[piece + 1 : piece + 38, None]).double().sum())
    assert nats == pytest.approx(score.nats, rel=1e-6)
    assert scorer.isolates_documents == (documents == "restart")
