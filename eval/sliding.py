"""Scoring with windows, so that every token is scored exactly once with as much context as its window holds.

Windows of `window` tokens start every `stride` tokens. The first scores all of its targets, every later one only those
that no window before it reached: its last `stride`, fewer at the end of the text. stride = window gives the plain,
non-overlapping evaluation. Only the scored positions are projected to logits.

A trap that cost records: keeping every start below the length scores the last tokens up to window / stride times.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from data.bytecount import ByteTable
from eval.score import Score
from runtime.errors import UserError
from runtime.machine import Machine

# The model contract: (tokens [B, T], targets [B, S]) -> (nats [B, S] fp32, state).
Scorer = Callable[[Tensor, Tensor], tuple[Tensor, tuple]]


@dataclass(frozen=True)
class EvalConfig:
    """Window and stride in tokens; `batch_tokens` is how many tokens one forward runs at most."""

    window: int = 2048
    stride: int = 64
    batch_tokens: int = 65_536

    @property
    def claim(self) -> dict[str, str | int]:
        """What a record says of how it was scored."""
        return {"protocol": "sliding windows", "window": self.window, "stride": self.stride}

    def check_for(self, model: Any) -> None:
        """Raises UserError for a stride outside 1 .. window; a model of any config can be scored in windows."""
        plan_windows(0, self.window, self.stride)

    def score(self, model: Scorer, tokens: Tensor, byte_table: ByteTable, machine: Machine) -> tuple[Score, int]:
        """The score of the text `tokens` [N + 1], and how many tokens went through the trunk, overlap included.

        Raises UserError for a text shorter than a window.
        """
        plain_windows(len(tokens) - 1, self.window)
        windows = plan_windows(len(tokens) - 1, self.window, self.stride)
        return score_windows(model, tokens, windows, byte_table, machine, self.batch_tokens), tokens_run(windows)


@dataclass(frozen=True)
class Window:
    """Reads tokens start .. start + length - 1; scores the last `scored` of targets start + 1 .. start + length."""

    start: int
    length: int
    scored: int


def plan_windows(num_targets: int, window: int, stride: int) -> list[Window]:
    """Windows that score each of `num_targets` targets exactly once, in order.

    Raises UserError for a stride outside 1 .. window.

    >>> plan_windows(num_targets=10, window=4, stride=2)[:2]
    [Window(start=0, length=4, scored=4), Window(start=2, length=4, scored=2)]
    >>> sum(w.scored for w in plan_windows(10_000, 1024, 64))
    10000
    """
    if not 1 <= stride <= window:
        raise UserError(
            f"the stride lies in 1..{window} for windows of {window}, got {stride}; nearest "
            f"{min(max(stride, 1), window)}"
        )
    windows, reached, start = [], 0, 0
    while reached < num_targets:
        end = min(start + window, num_targets)
        windows.append(Window(start, end - start, end - reached))
        reached, start = end, start + stride
    return windows


def plain_windows(num_targets: int, window: int) -> list[Window]:
    """The competition's non-overlapping windows: whole ones only, the tail dropped.

    Raises UserError when the text is shorter than one window.
    """
    if num_targets < window:
        raise UserError(
            f"the validation split must hold at least one window of {window} targets, got {num_targets}; "
            f"nearest window {num_targets}"
        )
    return plan_windows(num_targets // window * window, window, window)


def tokens_run(windows: Sequence[Window]) -> int:
    """Tokens that the windows put through the trunk: what evaluation speed is counted in."""
    return sum(window.length for window in windows)


@torch.inference_mode()
def score_windows(
    model: Scorer,
    tokens: Tensor,  # [N + 1] int64 on the CPU: the text, N targets
    windows: Sequence[Window],
    byte_table: ByteTable,
    machine: Machine,
    batch_tokens: int = 65_536,
) -> Score:
    """The score of all windows, shared out among the ranks in contiguous runs and summed in float64."""
    share = -(-len(windows) // machine.world_size)
    own = windows[machine.rank * share : (machine.rank + 1) * share]
    totals = torch.zeros(3, dtype=torch.float64, device=machine.device)
    table = byte_table.to(machine.device)
    for batch in _batches(own, batch_tokens):
        x, y, previous = (part.to(machine.device) for part in _gather(tokens, batch))
        nats, _ = model(x, y)
        totals += torch.stack((nats.double().sum(), table.count(y, previous).double().sum(), _count(y)))
    nats, num_bytes, num_tokens = machine.sum_(totals).tolist()
    return Score(nats, int(num_bytes), int(num_tokens))


def _count(y: Tensor) -> Tensor:
    return torch.tensor(float(y.numel()), dtype=torch.float64, device=y.device)


def _batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Runs of windows of one shape, as many as `batch_tokens` allows (at least one)."""
    for (length, _), run in groupby(windows, key=lambda window: (window.length, window.scored)):
        rows, size = list(run), max(1, batch_tokens // length)
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _gather(tokens: Tensor, batch: list[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [B, length], scored targets [B, scored] and the token before each of those."""
    length, scored = batch[0].length, batch[0].scored
    starts = torch.tensor([window.start for window in batch])
    rows = tokens[starts[:, None] + torch.arange(length + 1)]
    return rows[:, :-1], rows[:, length + 1 - scored :], rows[:, length - scored : -1]
