"""Associative recall: every property of the examples, the accuracy, a training that learns, a table that continues."""

from dataclasses import replace

import pytest
import torch

from eval.__main__ import main as eval_main
from eval.recall import NO_ANSWER, RecallTask, recall_accuracy, recall_examples
from model.linear_attention import LinearAttentionConfig, linear_attention
from recipes.recall import (
    RECALL_MIXERS,
    RECALL_TASKS,
    RecallResult,
    RecallTraining,
    recall_model,
    recall_results,
    recall_table,
    recall_tasks,
    train_recall,
)
from runtime.errors import UserError

TASK = RecallTask(vocab_size=64, length=40, num_pairs=7)
EASY = RecallTask(vocab_size=16, length=8, num_pairs=2)
F64 = torch.float64


def examples(task, count=500, seed=0):
    return recall_examples(task, count, torch.Generator().manual_seed(seed))


def test_pairs_come_first_and_are_all_different():
    tokens, _ = examples(TASK)
    keys, values = tokens[:, 0:14:2], tokens[:, 1:14:2]
    assert keys.min() == 1 and keys.max() == 31 and values.min() == 32 and values.max() == 63
    for part in (keys, values):
        assert all(len(row) == 7 for row in map(set, part.tolist()))
    # Neither is tied to its place or to the other.
    assert len(torch.unique(keys[:, 0])) == 31 and len(torch.unique(values[:, 0])) == 32


def test_every_key_is_asked_once_behind_the_pairs_and_answered_by_its_value():
    tokens, targets = examples(TASK)
    assert tokens.shape == targets.shape == (500, 40)
    for row, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        value_of = dict(zip(row[0:14:2], row[1:14:2], strict=True))
        asked = [place for place, answer in enumerate(answers) if answer != NO_ANSWER]
        assert sorted(row[place] for place in asked) == sorted(value_of)
        assert all(place >= 14 and place % 2 == 0 for place in asked)
        assert all(answers[place] == value_of[row[place]] for place in asked)


def test_where_nothing_is_asked_there_is_nothing_or_anything():
    tokens, targets = examples(TASK)
    rest = tokens[:, 14:][targets[:, 14:] == NO_ANSWER]
    assert not rest.any()
    tokens, targets = examples(replace(TASK, random_fillers=True))
    rest = tokens[:, 14:][targets[:, 14:] == NO_ANSWER]
    assert len(torch.unique(rest)) == 64
    assert ((targets != NO_ANSWER).sum(1) == 7).all()


def test_slots_are_drawn_by_a_power_law():
    task = RecallTask(vocab_size=600, length=512, num_pairs=1)
    slots = ((examples(task, 5000)[1] != NO_ANSWER).nonzero()[:, 1] - 2) / 2 + 1
    weights = 0.01 * torch.arange(1, 256) ** (0.01 - 1)
    expected = weights / weights.sum()
    assert (slots == 1).float().mean().item() == pytest.approx(expected[0].item(), rel=0.1)
    assert slots.mean().item() == pytest.approx((expected * torch.arange(1, 256)).sum().item(), rel=0.1)
    assert slots.max() > 240


def test_examples_depend_on_the_seed_alone_and_go_on():
    generator = torch.Generator().manual_seed(0)
    first, second = recall_examples(TASK, 5, generator), recall_examples(TASK, 5, generator)
    assert torch.equal(first[0], examples(TASK, 5)[0]) and torch.equal(first[1], examples(TASK, 5)[1])
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[0], examples(TASK, 5, seed=1)[0])


@pytest.mark.parametrize(
    "task, message",
    [
        (RecallTask(length=62, num_pairs=16), "even length of at least 4 x pairs = 64, got 62; nearest 64"),
        (RecallTask(length=65, num_pairs=8), "even length of at least 4 x pairs = 32, got 65; nearest 66"),
        (RecallTask(length=64, vocab_size=64), "even vocabulary larger than the length of 64, got 64; nearest 66"),
        (RecallTask(length=64, vocab_size=67), "even vocabulary larger than the length of 64, got 67; nearest 68"),
    ],
)
def test_a_task_that_does_not_fit_is_one_line(task, message):
    with pytest.raises(UserError, match=message):
        train_recall("attention", task, RecallTraining(), 0, tell=print)


def test_accuracy_is_averaged_in_an_example_first():
    targets = torch.full((2, 4), NO_ANSWER)
    targets[0, 1], targets[1, 0], targets[1, 1], targets[1, 3] = 2, 0, 1, 1
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 1, 1], [0, 1, 2, 2]]), 3).float()
    assert recall_accuracy(logits, targets) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("cuts", [(1,) * 9, (4, 5)])
def test_linear_attention_adds_and_any_pieces_are_the_whole(cuts):
    q, k, v = torch.randn(3, 2, 2, 9, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    o, S = linear_attention(q, k, v)
    written = (k[..., None] * v[..., None, :]).cumsum(2)
    torch.testing.assert_close(o, torch.einsum("bhtd,bhtde->bhte", q, written) / 2)
    torch.testing.assert_close(S, written[:, :, -1])
    layer, x = LinearAttentionConfig(2).build(16).double(), torch.randn(2, 9, 16, dtype=F64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    whole, state = layer(x)[0], None
    for piece, expected in zip(x.split(cuts, 1), whole.split(cuts, 1), strict=True):
        y, state = layer(piece, state)
        torch.testing.assert_close(y, expected)


def test_heads_of_linear_attention_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="a multiple of the 3 heads, got 16; nearest 15"):
        LinearAttentionConfig(3).build(16)


def test_what_is_compared_is_of_known_size():
    sizes = {
        name: sum(p.numel() for p in recall_model(mixers, RECALL_TASKS["mqar"][0], 64).build().parameters())
        for name, mixers in RECALL_MIXERS.items()
    }
    delta = sizes.pop("deltanet")
    assert 0.6 < sizes["attention"] / delta < 1
    assert sizes["gated_deltanet"] == delta + 2 * (2 * 64 + 4)
    assert sizes["linear_attention"] == delta - 2 * 2 * 64


# No accuracy is enough for this one, so that it takes its two steps.
BRIEF = RecallTraining(steps=2, batch=4, dim=16, check_every=1, unseen=8, enough=2.0)


def test_gated_deltanet_learns_to_recall():
    told = []
    training = RecallTraining(steps=300, batch=32, dim=32, unseen=200, enough=0.9)
    result = train_recall("gated_deltanet", EASY, training, 0, told.append)
    assert result.accuracy >= 0.9 and result.steps < 300
    assert told[0].startswith("gated_deltanet 2 pairs in 8 seed 0 step 50 loss ") and len(told) == result.steps / 50


def test_what_is_finished_is_not_trained_again(tmp_path):
    path, told = tmp_path / "recall.jsonl", []
    first = recall_results((EASY,), 1, BRIEF, path, told.append)
    assert [(run.mixer, run.seed, run.steps) for run in first] == [(name, 0, 2) for name in RECALL_MIXERS]
    assert len(told) == 2 * len(RECALL_MIXERS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]) + "\n")
    told.clear()
    assert recall_results((EASY,), 1, BRIEF, path, told.append) == first
    assert len(told) == 2 and told[0].startswith("deltanet ")
    assert sorted(path.read_text().splitlines()) == sorted(lines)
    # Other settings are other trainings.
    assert recall_results((EASY,), 1, replace(BRIEF, steps=1), path, told.append)[0].steps == 1
    assert len(path.read_text().splitlines()) == 2 * len(lines)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"mixer": "attention"}', '{"mixer": 1, "task": {"a": 1}, "training": {}}']
)
def test_a_file_of_other_lines_is_refused(text, tmp_path):
    path = tmp_path / "recall.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="recall.jsonl must hold lines that `python -m eval recall` wrote, got "):
        recall_results((EASY,), 1, BRIEF, path, print)


def test_the_table_has_mean_deviation_and_steps():
    runs = [RecallResult("deltanet", EASY, BRIEF, seed, *end) for seed, end in enumerate(((0.99, 50), (1.0, 150)))]
    lines = recall_table([*runs, replace(runs[0], mixer="attention")]).splitlines()
    assert lines[2:] == [
        "| 2 pairs in 8 | deltanet | 2 | 99.5 ± 0.7 | 50 to 150 |",
        "| 2 pairs in 8 | attention | 1 | 99.0 | 50 to 50 |",
    ]


def test_the_command_prints_checks_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECALL_TASKS, "mqar", (RecallTask(vocab_size=6, length=4, num_pairs=1),))
    out = tmp_path / "found" / "recall.jsonl"
    eval_main(["recall", "--pairs", "1", "--seeds", "1", "--steps", "2", "--out", str(out)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("deltanet 1 pairs in 4 seed 0 step 2 loss ")
    assert [line.split(" | ")[1] for line in said[-4:]] == list(RECALL_MIXERS)
    assert len(out.read_text().splitlines()) == 4


def test_pairs_choose_the_tasks_and_must_be_known():
    assert [task.length for task in recall_tasks("mqar", (32, 8))] == [64, 128]
    with pytest.raises(UserError, match="mqar has tasks of 8, 16, 32 pairs, got 20; nearest 16"):
        recall_tasks("mqar", (8, 20))
