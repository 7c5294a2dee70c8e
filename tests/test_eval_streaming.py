"""Scoring as a stream: coverage, state, documents side by side, ranks, and how a run asks for it."""

import json
import math
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import command, tiny

from data.bytecount import ByteTable
from data.tokenizer import BOS_ID
from eval.__main__ import main as eval_main
from eval.score import Score
from eval.sliding import EvalConfig
from eval.streaming import StreamConfig, document_streams, first_rows, score_streams
from model.gpt import GPTConfig
from recipes.override import overridden
from recipes.packed import open_packed
from recipes.recipe import load_recipe
from recipes.stages import sample_packed
from runtime.errors import UserError
from runtime.machine import Machine
from train_gpt import main

VOCAB = 320
TABLE = ByteTable(
    torch.arange(VOCAB, dtype=torch.int16) % 5, lead=torch.arange(VOCAB) % 2 == 0, boundary=torch.arange(VOCAB) < 4
)
DOCUMENTS = (40, 1, 7, 64, 2, 33, 40, 12)


def text_of(lengths=DOCUMENTS) -> torch.Tensor:
    """Documents of so many tokens, BOS included, and one token more."""
    tokens = torch.randint(4, VOCAB, (sum(lengths) + 1,), generator=torch.Generator().manual_seed(0))
    for place in range(len(lengths)):
        tokens[sum(lengths[:place])] = BOS_ID
    return tokens


def tiny_model():
    return overridden(load_recipe("demo"), tiny()).model.build().reset_parameters(3).eval().requires_grad_(False)


@pytest.fixture
def bounded(monkeypatch):
    """Lets the state of every model pass for bounded: texts are short here."""
    monkeypatch.setattr(GPTConfig, "has_bounded_state", True, raising=False)


class Sums:
    """A "model" whose state is what each row has read; a target costs the sum of it up to there, plus its own id."""

    config = SimpleNamespace(has_bounded_state=True)

    def __init__(self):
        self.shapes, self.alive, self.most_alive = [], weakref.WeakSet(), 0

    def __call__(self, tokens, targets, state):
        before = torch.zeros(len(tokens), dtype=torch.float64) if state is None else state[1][0]
        nats = before[:, None] + tokens.double().cumsum(1)
        self.shapes.append(tuple(tokens.shape))
        after = nats[:, -1].clone()
        self.alive.add(after)
        self.most_alive = max(self.most_alive, len(self.alive))
        return nats + targets / 1000, (None, (after,))


def sums_of(tokens, streams) -> float:
    """What `Sums` charges, one token after the other."""
    total = 0.0
    for stream in streams:
        seen = 0
        for place in stream:
            seen += int(tokens[place])
            total += seen + int(tokens[place + 1]) / 1000
    return total


def test_documents_read_each_position_once_and_begin_with_their_bos():
    tokens = text_of()
    streams = document_streams(tokens)
    assert tuple(map(len, streams)) == DOCUMENTS
    assert [place for stream in streams for place in stream] == list(range(len(tokens) - 1))
    assert all(tokens[stream.start] == BOS_ID for stream in streams)
    # The last token is a target alone, whatever it is, and a text may begin within a document.
    assert document_streams(torch.tensor([9, 9, BOS_ID, 9, BOS_ID])) == [range(2), range(2, 4)]
    assert document_streams(torch.tensor([9, 9, 9])) == [range(2)]


@pytest.mark.parametrize("documents", ["continue", "restart"])
@pytest.mark.parametrize("chunk, batch_tokens", [(1, 1), (7, 7), (7, 21), (16, 48), (64, 10**6), (1000, 10**6)])
def test_each_token_is_scored_once_with_the_state_of_its_own_row(documents, chunk, batch_tokens):
    tokens, model = text_of(), Sums()
    score, num_run = StreamConfig(chunk, documents, batch_tokens).score(model, tokens, TABLE, Machine())
    streams = document_streams(tokens) if documents == "restart" else [range(len(tokens) - 1)]
    assert score.nats == pytest.approx(sums_of(tokens, streams), rel=1e-12)
    assert score.tokens == num_run == len(tokens) - 1
    assert score.bytes == int(TABLE.count(tokens[1:], tokens[:-1]).sum())
    assert all(rows * steps <= max(batch_tokens, chunk) for rows, steps in model.shapes)


@pytest.mark.parametrize("chunk", [1, 13, 64, 999])
def test_a_stream_equals_one_long_forward(chunk, bounded):
    tokens, model = text_of(), tiny_model()
    score, _ = StreamConfig(chunk).score(model, tokens, TABLE, Machine())
    nats, _ = model(tokens[None, :-1], tokens[None, 1:])
    assert score.nats == pytest.approx(float(nats.double().sum()), rel=1e-6)


@pytest.mark.parametrize("batch_tokens", [16, 32, 80, 10**6])
def test_documents_side_by_side_score_as_each_alone(batch_tokens, bounded):
    tokens, model = text_of(), tiny_model()
    score, _ = StreamConfig(16, "restart", batch_tokens).score(model, tokens, TABLE, Machine())
    parts = [tokens[stream.start : stream.stop + 1] for stream in document_streams(tokens)]
    alone = sum(float(model(part[None, :-1], part[None, 1:])[0].double().sum()) for part in parts)
    assert score.nats == pytest.approx(alone, rel=1e-6)
    carried, _ = StreamConfig(16).score(model, tokens, TABLE, Machine())
    assert abs(carried.nats - alone) > 1e-3


def test_documents_side_by_side_need_few_forwards():
    lengths = [100 + 7 * index for index in range(24)]
    tokens, model = text_of(lengths), Sums()
    score_streams(model, tokens, document_streams(tokens), TABLE, Machine(), chunk=10, batch_tokens=80)
    longest = math.ceil(max(lengths) / 10)
    assert len(model.shapes) <= sum(math.ceil(length / 10) for length in lengths) / 8 + longest
    assert max(rows for rows, _ in model.shapes) == 8


def test_memory_does_not_grow_with_the_text():
    model = Sums()
    StreamConfig(chunk=4).score(model, text_of((2000,)), TABLE, Machine())
    assert len(model.shapes) == 500
    assert model.most_alive <= 2


def test_rows_of_a_state():
    state = (None, (torch.arange(6).view(3, 2), (torch.ones(3), None)))
    kept = first_rows(state, 2)
    assert (kept[0], kept[1][1][1]) == (None, None)
    assert torch.equal(kept[1][0], torch.tensor([[0, 1], [2, 3]]))
    assert kept[1][1][0].shape == (2,)


@pytest.mark.parametrize("documents", ["continue", "restart"])
@pytest.mark.parametrize("ranks", [2, 3, 16])
def test_ranks_share_documents_without_loss(documents, ranks):
    tokens, config = text_of(), StreamConfig(16, documents, 48)
    machines = [_Alone(rank=rank, world_size=ranks) for rank in range(ranks)]
    parts = [config.score(Sums(), tokens, TABLE, machine)[0] for machine in machines]
    whole, _ = config.score(Sums(), tokens, TABLE, Machine())
    total = sum(parts, Score())
    assert (total.tokens, total.bytes) == (whole.tokens, whole.bytes)
    assert total.nats == pytest.approx(whole.nats, rel=1e-12)
    # Carried through the text it is one row: the first rank's.
    busy = sum(part.tokens > 0 for part in parts)
    assert busy == (1 if documents == "continue" else min(ranks, len(DOCUMENTS)))


class _Alone(Machine):
    """A rank whose sums stay its own."""

    def sum_(self, tensor):
        return tensor


def test_two_ranks_score_what_one_does(tmp_path, bounded):
    script = tmp_path / "scores.py"
    script.write_text(
        "from test_eval_streaming import *\n"
        "from runtime.machine import start_machine\n"
        "machine = start_machine('fp32')\n"
        "GPTConfig.has_bounded_state = True\n"
        "for documents in ('continue', 'restart'):\n"
        "    score, _ = StreamConfig(16, documents).score(tiny_model(), text_of(), TABLE, machine)\n"
        "    if machine.is_main:\n"
        "        print(machine.world_size, score.tokens, score.bytes, score.nats)\n"
    )
    path = {"PYTHONPATH": f"{__file__.rpartition('/tests/')[0]}:{__file__.rpartition('/')[0]}"}
    done = command(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)], tmp_path, **path)
    assert done.returncode == 0, done.stderr
    for line, documents in zip(done.stdout.splitlines(), ("continue", "restart"), strict=True):
        score, _ = StreamConfig(16, documents).score(tiny_model(), text_of(), TABLE, Machine())
        ranks, tokens, size, nats = line.split()
        assert (ranks, int(tokens), int(size)) == ("2", score.tokens, score.bytes)
        assert float(nats) == pytest.approx(score.nats, rel=1e-6)


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(UserError, match="at least 1 token, got 0; nearest 1"):
        StreamConfig(chunk=0).check_for(load_recipe("demo").model)
    with pytest.raises(UserError, match="state does not grow with the text, got one whose state does; score it"):
        StreamConfig().check_for(load_recipe("demo").model)


@pytest.mark.parametrize("config, rule", [(StreamConfig(), "a stream needs"), (EvalConfig(8, 9), "the stride lies in")])
def test_a_run_that_could_not_be_scored_does_not_begin(config, rule, workplace, monkeypatch):
    recipe = replace(overridden(load_recipe("demo"), tiny()), eval=config)
    monkeypatch.setattr("train_gpt.load_recipe", lambda name, overrides: recipe)
    with pytest.raises(UserError, match=rule):
        main(["demo"])
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--eval.window=64", "unknown override --eval.window; nearest: "),
        ("--eval.documents=alone", "--eval.documents must be continue or restart, got 'alone'"),
    ],
)
def test_overrides_are_of_the_protocol_that_the_recipe_claims(argument, message):
    recipe = replace(load_recipe("demo"), eval=StreamConfig())
    assert overridden(recipe, ["--eval.documents", "restart", "--eval.chunk=9"]).eval == StreamConfig(9, "restart")
    with pytest.raises(UserError, match=f"^{message}.*"):
        overridden(recipe, [argument])


def test_a_run_is_scored_by_the_protocol_that_is_asked_for(run_tiny, bounded, capsys):
    run = run_tiny("demo", "streamed", train__steps=2)
    windows = json.loads((run / "score.json").read_text())
    eval_main([str(run), "--protocol", "stream", "--chunk", "48", "--documents", "restart"])
    score = json.loads((run / "score.json").read_text())
    assert (score["protocol"], score["chunk"], score["documents"]) == ("stream", 48, "restart")
    assert "window" not in score and score["tokens_run"] == score["tokens"] == windows["tokens"]
    assert (score["bytes"], windows["protocol"]) == (windows["bytes"], "sliding windows")
    line = f"stream chunk=48 documents=restart val_loss:{score['val_loss']:.8f} val_bpb:{score['val_bpb']:.8f} tokens:"
    assert line in (run / "train.log").read_text()
    eval_main([str(run), "--protocol", "sliding"])
    assert json.loads((run / "score.json").read_text())["val_bpb"] == windows["val_bpb"]
    with pytest.raises(UserError, match="unknown override --window; one of: batch_tokens, chunk, documents"):
        eval_main([str(run), "--protocol", "stream", "--window", "64"])


def test_a_recipe_that_claims_a_stream_is_scored_as_one(run_tiny, bounded, monkeypatch):
    run = run_tiny("demo", "claims", train__steps=1)
    packed = open_packed(run / "model.bin", Machine())
    claims = replace(packed, recipe=replace(packed.recipe, eval=StreamConfig(40, "restart")))
    monkeypatch.setattr("recipes.stages.open_packed", lambda path, machine: claims)
    eval_main([str(run)])
    score = json.loads((run / "score.json").read_text())
    assert (score["protocol"], score["chunk"], score["documents"]) == ("stream", 40, "restart")
    eval_main([str(run), "--protocol", "sliding"])
    score = json.loads((run / "score.json").read_text())
    assert (score["protocol"], score["window"], score["stride"]) == ("sliding windows", 512, 64)


def test_an_attention_model_is_not_streamed_and_its_samples_end_with_the_window(run_tiny, workplace, monkeypatch):
    run = run_tiny("demo", "grows", train__steps=1)
    with pytest.raises(UserError, match="a stream needs a model whose state does not grow"):
        eval_main([str(run), "--protocol", "stream"])
    packed = open_packed(run / "model.bin", Machine())
    wanted = {"num_tokens": 200, "temperature": 1.0, "top_k": 50, "seed": 0}
    with pytest.raises(UserError, match="must fit the window of 128 tokens, got 200 tokens to write; nearest"):
        sample_packed(packed, "peace", **wanted)
    monkeypatch.setattr(GPTConfig, "has_bounded_state", True, raising=False)
    assert sample_packed(packed, "peace", **wanted).startswith("peace")
