"""Multi-query associative recall: pairs of key and value first, then keys alone, each to be answered by its value.

    k1 v1 k2 v2 ... kN vN | 0 0 k2 0 k1 0 0 0 kN ...       v2, v1, ..., vN where these keys stand; ignored elsewhere

Keys are 1 .. V/2 - 1, values V/2 .. V - 1, all different within an example. Behind the pairs every second place is a
slot; each key is asked once, in a slot drawn without replacement with p_i ~ a i^(a - 1), so mostly soon.

1. Arora et al. 2023, Zoology, arXiv 2312.04927 (the task).  2. Yang et al. 2024, arXiv 2406.06484 (DeltaNet solves it).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.errors import UserError

# The target of a position that asks nothing; torch's cross entropy gives it no nats.
NO_ANSWER = -100


@dataclass(frozen=True)
class RecallTask:
    """`num_pairs` pairs in `length` tokens of a vocabulary of `vocab_size`."""

    vocab_size: int = 256
    length: int = 64
    num_pairs: int = 8
    power: float = 0.01  # a
    random_fillers: bool = False  # any token where nothing is asked, instead of 0

    def check(self) -> None:
        """Raises UserError unless the pairs fit twice into the length, and their tokens into the vocabulary."""
        if self.length % 2 or self.length < 4 * self.num_pairs:
            raise UserError(
                f"recall needs an even length of at least 4 x pairs = {4 * self.num_pairs}, got {self.length}; "
                f"nearest {max(4 * self.num_pairs, self.length + self.length % 2)}"
            )
        if self.vocab_size % 2 or self.vocab_size <= self.length:
            raise UserError(
                f"recall needs an even vocabulary larger than the length of {self.length}, got {self.vocab_size}; "
                f"nearest {max(self.length + 2, self.vocab_size + self.vocab_size % 2)}"
            )

    def __str__(self) -> str:
        return f"{self.num_pairs} pairs in {self.length}"


def recall_examples(
    task: RecallTask,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # [count, length] int64 each
    """Tokens and targets of `count` examples; a target is the value of the key that stands there, or NO_ANSWER."""
    half, pairs = task.vocab_size // 2, 2 * task.num_pairs
    keys = 1 + _distinct(torch.ones(half - 1), count, task.num_pairs, generator)
    values = half + _distinct(torch.ones(half), count, task.num_pairs, generator)
    slots = torch.arange(1, (task.length - pairs) // 2 + 1)
    places = pairs + 2 * _distinct(task.power * slots ** (task.power - 1), count, task.num_pairs, generator)
    tokens = torch.zeros(count, task.length, dtype=torch.int64)
    if task.random_fillers:
        tokens.random_(task.vocab_size, generator=generator)
    tokens[:, 0:pairs:2], tokens[:, 1:pairs:2] = keys, values
    tokens.scatter_(1, places, keys)
    return tokens, torch.full_like(tokens, NO_ANSWER).scatter_(1, places, values)


def recall_accuracy(
    logits: Tensor,  # [count, length, vocab_size]
    targets: Tensor,  # [count, length]
) -> float:
    """The share of right answers of an example, averaged over examples.

    >>> recall_accuracy(torch.eye(3)[None], torch.tensor([[0, NO_ANSWER, 1]]))
    0.5
    """
    asked = targets != NO_ANSWER
    right = (logits.argmax(-1) == targets) & asked
    return (right.sum(1) / asked.sum(1)).mean().item()


def _distinct(weights: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """[count, size] different indices a row, drawn one after the other by their weights."""
    return torch.multinomial(weights.expand(count, -1), size, generator=generator)
