"""The evaluator: coverage, shares of ranks, bytes, order, and the edges where published scripts went wrong."""

import math

import pytest
import torch

from data.bytecount import ByteTable
from eval.sample import draw, sample_text
from eval.score import Score
from eval.sliding import plain_windows, plan_windows, score_windows, tokens_run
from runtime.errors import UserError
from runtime.machine import Machine

L, S = 64, 8
NEVER = torch.zeros(50, dtype=torch.bool)
TABLE = ByteTable(torch.arange(50, dtype=torch.int16) % 5, lead=NEVER, boundary=NEVER)


def nats_of(tokens, targets):
    """A "model" whose nats say which target was scored after how much context: position in the window / 1000 + id."""
    seen = torch.arange(tokens.shape[1])[-targets.shape[1] :]
    return targets + seen / 1000.0, ()


@pytest.mark.parametrize("num_targets", [1, S - 1, S, L - S, L - S + 1, L, L + 1, L + S, 500, 1003])
def test_each_target_is_scored_once_with_enough_context(num_targets):
    scored = torch.zeros(num_targets, dtype=torch.int)
    for index, window in enumerate(plan_windows(num_targets, L, S)):
        end = window.start + window.length
        scored[end - window.scored : end] += 1
        assert window.length <= L and end <= num_targets
        assert index == 0 or window.length - window.scored >= L - S
    assert (scored == 1).all()


def test_the_first_window_scores_all_and_later_ones_their_last_stride():
    windows = plan_windows(10_000, 1024, 64)
    assert windows[0].scored == 1024
    assert {window.scored for window in windows[1:-1]} == {64}
    assert tokens_run(windows[:2]) == 2048


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_share_the_windows_without_loss(ranks):
    tokens = torch.randint(0, 50, (700,), generator=torch.Generator().manual_seed(0))
    windows = plan_windows(699, L, S)
    parts = [
        score_windows(nats_of, tokens, windows, TABLE, _Alone(rank=rank, world_size=ranks), batch_tokens=4 * L)
        for rank in range(ranks)
    ]
    total = sum(parts, Score())
    assert total.tokens == 699
    assert total.bytes == int((tokens[1:] % 5).sum())
    whole = score_windows(nats_of, tokens, windows, TABLE, Machine(), batch_tokens=4 * L)
    assert total.nats == pytest.approx(whole.nats, rel=1e-12)


class _Alone(Machine):
    """A rank whose sums stay its own."""

    def sum_(self, tensor):
        return tensor


def test_scores_are_of_the_right_targets():
    tokens = torch.arange(50).repeat(4)
    score = score_windows(nats_of, tokens, plan_windows(199, L, S), TABLE, Machine())
    expected = int(tokens[1:].sum())
    positions = sum(sum(range(window.length - window.scored, window.length)) for window in plan_windows(199, L, S))
    assert score.nats == pytest.approx(expected + positions / 1000, rel=1e-7)


def test_batching_and_order_change_nothing():
    tokens = torch.randint(0, 50, (400,), generator=torch.Generator().manual_seed(1))
    windows = plan_windows(399, L, S)
    scores = [score_windows(nats_of, tokens, w, TABLE, Machine(), b) for w, b in ((windows, L), (windows[::-1], 10**6))]
    assert scores[0].nats == pytest.approx(scores[1].nats, rel=1e-12)
    assert scores[0].bytes == scores[1].bytes


def test_plain_windows_drop_the_tail_as_the_competition_does():
    windows = plain_windows(1000, 64)
    assert sum(window.scored for window in windows) == 960
    assert all(window.scored == window.length == 64 for window in windows)


def test_a_split_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="at least one window of 64 targets, got 63; nearest window 63"):
        plain_windows(63, 64)


@pytest.mark.parametrize("stride, nearest", [(0, 1), (65, 64), (-3, 1)])
def test_a_stride_outside_the_window_is_refused(stride, nearest):
    with pytest.raises(UserError, match=f"got {stride}; nearest {nearest}"):
        plan_windows(100, 64, stride)


def test_scores_add_up_and_imply_their_bytes():
    total = Score(10.0, 4, 5) + Score(2.0, 6, 1)
    assert total == Score(12.0, 10, 6)
    assert total.bpb == pytest.approx(12 / math.log(2) / 10)
    assert total.implied_bytes == pytest.approx(10)


class _Counter(torch.nn.Module):
    """Predicts the next id after the last one, and counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.asked = []

    def logits(self, tokens, state):
        self.asked.append(tokens.shape[1])
        logits = torch.full((1, tokens.shape[1], 50), -10.0)
        logits[0, -1, (int(tokens[0, -1]) + 1) % 50] = 10.0
        return logits, (state or 0) + 1


class _Letters:
    """A tokenizer whose ids are numbers in a text."""

    def bos_id(self):
        return 1

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


def test_sampling_carries_the_state_and_stops_before_a_new_document():
    model = _Counter()
    assert sample_text(model, _Letters(), "5 6", num_tokens=3, temperature=0.0) == "5 6 7 8 9"
    assert model.asked == [3, 1, 1]
    assert sample_text(model, _Letters(), "48 49", num_tokens=9, temperature=0.5, top_k=1) == "48 49 0"


def test_draws_stay_within_top_k_and_repeat_with_the_seed():
    logits = torch.tensor([0.0, 3.0, 2.9, -1.0])
    draws = [
        [draw(logits, 1.0, 2, g) for _ in range(40)] for g in (torch.Generator().manual_seed(s) for s in (0, 0, 1))
    ]
    assert set(draws[0]) == {1, 2}
    assert draws[0] == draws[1] != draws[2]
