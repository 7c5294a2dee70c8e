"""What memory and caches are worth, and the posts' own metric: sums that agree with other ways to the same figure."""

import pytest
import torch
from test_baka import built, text

from data.tokenizer import BOS_ID
from eval.__main__ import main as eval_main
from eval.memory import SETTINGS, memory_scores, memory_table
from eval.streaming import document_streams, score_streams
from eval.window_means import mean_losses
from runtime.errors import UserError
from runtime.machine import Machine

LENGTHS = (45, 8, 21, 3)


class OneByte:
    """Every token but BOS is one byte."""

    def to(self, device):
        return self

    def count(self, targets, previous):
        return (targets != BOS_ID).long()


@pytest.fixture
def model():
    return built().eval()


def four_documents():
    tokens = text(sum(LENGTHS) + 1, rows=1)[0].clamp(min=4)
    tokens[torch.tensor([0, *LENGTHS]).cumsum(0)] = BOS_ID
    return tokens


def test_places_add_up_and_the_first_chunk_needs_no_memory(model):
    tokens = four_documents()
    rows = memory_scores(model, tokens, OneByte(), chunk=8)
    *places, whole = rows
    assert [(row.first, row.end) for row in rows] == [(0, 8), (8, 16), (16, 32), (32, 45), (0, 45)]
    assert [row.scores["both on"].tokens for row in places] == [8 + 8 + 8 + 3, 8 + 8, 16 + 5, 13]
    for setting in SETTINGS:
        assert sum(row.scores[setting].nats for row in places) == pytest.approx(whole.scores[setting].nats)
        assert places[0].scores[setting] == places[0].scores["both on"]
    plain = score_streams(model, tokens, document_streams(tokens), OneByte(), Machine(), chunk=8)
    assert whole.scores["both on"].nats == pytest.approx(plain.nats, rel=1e-6)
    assert (whole.scores["both on"].bytes, whole.scores["both on"].tokens) == (plain.bytes, plain.tokens)
    assert len({row.nats for row in whole.scores.values()}) == 4
    assert len(memory_table(rows).splitlines()) == 6


def test_forgetting_both_is_starting_anew(model):
    tokens = four_documents()
    rows = memory_scores(model, tokens, OneByte(), chunk=8)
    # Rotary positions are relative but for the gates of cached keys, of which nothing is left.
    pieces = [range(i, min(i + 8, d.stop)) for d in document_streams(tokens) for i in range(d.start, d.stop, 8)]
    anew = score_streams(model, tokens, pieces, OneByte(), Machine(), chunk=8)
    assert rows[-1].scores["both off"].nats == pytest.approx(anew.nats, rel=1e-6)


def test_a_model_without_memory_is_refused(model):
    with pytest.raises(UserError, match="got none; nearest recipe: baka"):
        memory_scores(torch.nn.Linear(1, 1), four_documents(), OneByte(), chunk=8)


def test_the_posts_metric_weighs_windows_alike(model):
    tokens = four_documents()
    means = mean_losses(model, tokens, document_streams(tokens), context=16)
    first = model(tokens[None, :16], tokens[None, 1:17])[0]
    second = model(tokens[None, 8:24], tokens[None, 9:25])[0][:, 8:]
    only = mean_losses(model, tokens, [range(24)], context=16)
    assert only.of_windows == pytest.approx((first.mean().item() + second.mean().item()) / 2, rel=1e-6)
    assert only.of_tokens == pytest.approx(torch.cat((first, second), 1).mean().item(), rel=1e-6)
    # 45 tokens are 5 windows, 21 are 2, the others one each.
    assert means.num_windows == 5 + 1 + 2 + 1
    assert "mean over 9 windows" in means.line() and means.of_windows != pytest.approx(means.of_tokens, rel=1e-6)


def test_the_commands(run_tiny, capsys):
    run = run_tiny("baka", "worth", train__steps=1, model__layers__length=1, model__window=32)
    capsys.readouterr()
    eval_main(["memory", str(run)])
    table = capsys.readouterr().out.splitlines()
    assert table[0].split("  ")[-1] == "both off" and len(table) == 7
    eval_main(["means", str(run), "--context", "32"])
    assert capsys.readouterr().out.startswith("mean over ")
