"""Streams of text through a scorer: the judge chooses text and cuts, and checks every row that comes back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from records.dynamic.session import ScorerSession
from records.dynamic.texts import JudgedText

# Of a chunk of tokens; with 8 bytes each it fits a pipe, so that a hanging scorer cannot block the judge.
MAX_CHUNK = 4096


@dataclass(frozen=True)
class BenchPlan:
    """How many tokens a probe takes, out of a budget for all of them."""

    window: int  # tokens of a probed text
    depth: int  # tokens of the one that is probed at its end
    num_windows: int  # for the score by position, of 2 x `window` tokens each
    flips: int = 12
    later_flips: int = 3
    cuts: int = 4

    @property
    def chunk(self) -> int:
        """Tokens that the scorer is given at once."""
        return max(4, self.window // 4)


def plan_of(budget: int) -> BenchPlan:
    """The plan that asks for `budget` tokens in the tests and as many again for the score by position.

    >>> plan = plan_of(16_384)
    >>> plan.window, plan.chunk, plan.depth, plan.num_windows
    (256, 64, 2048, 32)
    """
    window = min(512, max(16, budget // 64 // 8 * 8))
    return BenchPlan(window, depth=budget // 8, num_windows=max(2, budget // (2 * window)))


class ScorerBench:
    """A session, the text that probes are cut from, and the worst sum of probabilities of all rows until now."""

    def __init__(self, session: ScorerSession, text: JudgedText, plan: BenchPlan, seed: int) -> None:
        self.session, self.text, self.plan = session, text, plan
        self.draw = np.random.default_rng(seed)
        self.tokens_asked = 0
        self.worst_sum, self.worst_place = 0.0, ""

    def rows(
        self,
        stream: np.ndarray,  # [T] token ids
        chunks: Sequence[int] | None = None,  # their lengths; the last one is cut or repeated as needed
    ) -> np.ndarray:
        """What a fresh scorer says after each token of the stream: log-probabilities [T, V]."""
        self.session.fresh()
        parts, start = [], 0
        for length in _lengths(len(stream), chunks or [self.plan.chunk]):
            parts.append(self.checked(stream[start : start + length], start))
            start += length
        return np.concatenate(parts)

    def checked(self, tokens: np.ndarray, start: int) -> np.ndarray:
        """The rows [T, V] of the next tokens of the present stream, which are its tokens from `start` on."""
        rows = self.session.score(tokens)
        self._weigh(rows, start)
        self.tokens_asked += len(tokens)
        return rows

    def passage(self, length: int) -> np.ndarray:
        """`length` tokens of the validation text from a random place."""
        last = max(1, len(self.text.tokens) - length)
        start = int(self.draw.integers(last))
        return self.text.tokens[start : start + length].astype(np.int64)

    def other_token(self, token: int) -> int:
        """A token of the text that is not this one."""
        found = int(self.text.tokens[self.draw.integers(len(self.text.tokens))])
        return found if found != token else (token + 1) % self.text.vocab_size

    def _weigh(self, rows: np.ndarray, start: int) -> None:
        sums = log_sums(rows)
        worst = int(np.argmax(np.abs(sums)))
        if abs(sums[worst]) > self.worst_sum:
            self.worst_sum = float(abs(sums[worst]))
            self.worst_place = f"position {start + worst}: the probabilities sum to {np.exp(min(sums[worst], 700)):.6g}"


def log_sums(rows: np.ndarray) -> np.ndarray:
    """log sum exp of every row in float64; infinite where a row holds a NaN or an infinite probability.

    >>> log_sums(np.log([[0.25, 0.75], [1.0, 1.0]])).round(6).tolist()
    [0.0, 0.693147]
    """
    rows = rows.astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sums = np.log(np.exp(rows - top).sum(axis=1)) + top[:, 0]
    return np.where(np.isfinite(sums), sums, np.inf)


def nats_of(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What each target costs, float64 [T]."""
    return -rows[np.arange(len(targets)), targets].astype(np.float64)


def _lengths(total: int, chunks: Sequence[int]) -> list[int]:
    """`chunks` in turn, the last one again and again, cut to sum to `total`.

    >>> _lengths(10, [4]), _lengths(10, [7, 1])
    ([4, 4, 2], [7, 1, 1, 1])
    """
    lengths: list[int] = []
    while (left := total - sum(lengths)) > 0:
        lengths.append(min(left, MAX_CHUNK, chunks[min(len(lengths), len(chunks) - 1)]))
    return lengths
