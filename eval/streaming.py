"""Scoring a text as a stream: the model's state is carried on from chunk to chunk, and every token is run once.

"continue" carries it through the whole text, in one row: one rank scores and the others wait, which they do for ten
minutes at most. "restart" drops it where a document begins, at its BOS. Documents are then scored many at once, as rows
of a batch, and shared among the ranks. The last target of a document is the BOS of the next one, which costs nats and
stands for no bytes, as in windows.

Rows begin together and the longest come first, so the rows that go on are always the first ones, and no state has to be
put together from others. With documents sorted by length, a batch takes as many steps as its longest, which the batch
before it exceeds throughout: all batches take at most the longest document more than full batches would.

A score as a stream is not one of windows: a token sees all the text before it. The two must not be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data.bytecount import ByteTable
from data.tokenizer import BOS_ID
from eval.score import Score
from runtime.errors import UserError
from runtime.machine import Machine


@dataclass(frozen=True)
class StreamConfig:
    """`chunk` tokens of a row at a time; `batch_tokens` is how many tokens one forward runs at most."""

    chunk: int = 2048
    documents: Literal["continue", "restart"] = "continue"
    batch_tokens: int = 65_536

    @property
    def claim(self) -> dict[str, str | int]:
        """What a record says of how it was scored."""
        return {"protocol": "stream", "chunk": self.chunk, "documents": self.documents}

    def check_for(self, model: Any) -> None:
        """Raises UserError for a chunk below 1, and for a model config whose state grows with the text."""
        if self.chunk < 1:
            raise UserError(f"a chunk holds at least 1 token, got {self.chunk}; nearest 1")
        if not model.has_bounded_state:
            raise UserError(
                "a stream needs a model whose state does not grow with the text, got one whose state does; score it in "
                "sliding windows, or take layers of bounded state"
            )

    def score(self, model: nn.Module, tokens: Tensor, byte_table: ByteTable, machine: Machine) -> tuple[Score, int]:
        """The score of the text `tokens` [N + 1], and how many tokens of it went through the trunk: each once.

        Raises UserError as `check_for` does.
        """
        self.check_for(model.config)
        streams = document_streams(tokens) if self.documents == "restart" else [range(len(tokens) - 1)]
        score = score_streams(model, tokens, streams, byte_table, machine, self.chunk, self.batch_tokens)
        return score, score.tokens


def document_streams(tokens: Tensor) -> list[range]:
    """The positions that each document of the text [N + 1] reads, BOS first; all of them together are 0 .. N - 1.

    >>> document_streams(torch.tensor([BOS_ID, 7, 8, BOS_ID, 9, BOS_ID]))
    [range(0, 3), range(3, 5)]
    """
    num_targets = len(tokens) - 1
    begins = (tokens[1:num_targets] == BOS_ID).nonzero().flatten() + 1
    starts = [0, *begins.tolist()]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], num_targets], strict=True)]


@torch.inference_mode()
def score_streams(
    model: nn.Module,  # the model contract: (tokens, targets, state) -> (nats [B, T] fp32, state)
    tokens: Tensor,  # [N + 1] int64 on the CPU: the text
    streams: Sequence[range],  # the positions that each reads; it scores the tokens after them
    byte_table: ByteTable,
    machine: Machine,
    chunk: int = 2048,
    batch_tokens: int = 65_536,
) -> Score:
    """The score of all streams, each with a state of its own, shared among the ranks and summed in float64."""
    own = sorted(streams, key=len, reverse=True)[machine.rank :: machine.world_size]
    totals = torch.zeros(3, dtype=torch.float64, device=machine.device)
    table = byte_table.to(machine.device)
    num_rows = max(1, batch_tokens // chunk)
    for first in range(0, len(own), num_rows):
        rows, state = own[first : first + num_rows], None
        for offset in range(0, len(rows[0]), chunk):
            pieces = [row[offset : offset + chunk] for row in rows if len(row) > offset]
            x, y, is_text = (part.to(machine.device) for part in _padded(tokens, pieces))
            nats, state = model(x, y, first_rows(state, len(pieces)))
            parts = (nats.double(), table.count(y, x).double(), torch.ones_like(nats, dtype=torch.float64))
            totals += torch.stack([part.masked_fill(~is_text, 0.0).sum() for part in parts])
    nats, num_bytes, num_tokens = machine.sum_(totals).tolist()
    return Score(nats, int(num_bytes), int(num_tokens))


def first_rows(state: Any, count: int) -> Any:
    """The first `count` rows of a state: of every tensor [B, ...] in nested tuples; None stays None.

    >>> first_rows((None, (torch.arange(3),)), 2)
    (None, (tensor([0, 1]),))
    """
    if isinstance(state, tuple):
        return tuple(first_rows(part, count) for part in state)
    return state if state is None else state[:count]


def _padded(
    tokens: Tensor,
    pieces: list[range],  # the longest first
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and targets [B, T], and which of them are text: what follows the end of a stream is padding."""
    steps = torch.arange(len(pieces[0]))
    is_text = steps < torch.tensor([len(piece) for piece in pieces])[:, None]
    # Padding is the first token of the text again, not the text that follows.
    places = (torch.tensor([piece.start for piece in pieces])[:, None] + steps).masked_fill(~is_text, 0)
    return tokens[places], tokens[places + 1], is_text
