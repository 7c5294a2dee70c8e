"""Tokens -> the first residual, and back: the tied embedding, BigramHash and SmearGate.

BigramHash: row ((36313 id_t) xor (27191 id_{t-1})) mod (B - 1) of a table [B, 128], projected to the width and scaled;
position 0 has no predecessor and uses row B - 1. SmearGate: y_t = (1 - σ(a)) x_t + σ(a) x_{t-1}, a learned vector.

1. Parameter Golf pull requests 162, 180 and 465 (both modules). 2. Press and Wolf 2017, arXiv 1608.05859 (tying).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.linear import Linear
from ops.rms_norm.fused import rms_norm

# The last token id [B] and its embedding before the smear [B, dim]; what the next call needs of this one.
EmbedState = tuple[Tensor, Tensor]


class Table(nn.Module):
    """Rows looked up by id: weight [num_rows, dim], fp32."""

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, dim))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.weight).to(dtype)


class UntiedHead(Table):
    """A head of its own, [vocab_size, dim], that starts as a torch.nn.Linear does."""

    def reset_parameters(self) -> None:
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)


@dataclass(frozen=True)
class TokenEmbeddingConfig:
    """x = RMS(E[tokens]), the organisers' baseline; E starts at N(0, init_std)."""

    init_std: float = 0.005

    def build(self, vocab_size: int, dim: int) -> "TokenEmbedding":
        return TokenEmbedding(self, vocab_size, dim)


class TokenEmbedding(nn.Module):
    """`forward` gives the first residual, `tokens.weight` is also the output head."""

    def __init__(self, config: "TokenEmbeddingConfig | PlainEmbeddingConfig", vocab_size: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = Table(vocab_size, dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.tokens.weight, std=self.config.init_std)

    def forward(
        self,
        tokens: Tensor,  # [B, T] int64
        dtype: torch.dtype,
        state: EmbedState | None = None,
    ) -> tuple[Tensor, EmbedState | None]:  # [B, T, dim]
        return rms_norm(self.tokens(tokens, dtype)), None


@dataclass(frozen=True)
class PlainEmbeddingConfig:
    """x = E[tokens]; E starts at N(0, init_std)."""

    init_std: float = 0.02

    def build(self, vocab_size: int, dim: int) -> "PlainEmbedding":
        return PlainEmbedding(self, vocab_size, dim)


class PlainEmbedding(TokenEmbedding):
    """The table's rows as they are."""

    def forward(
        self,
        tokens: Tensor,  # [B, T] int64
        dtype: torch.dtype,
        state: EmbedState | None = None,
    ) -> tuple[Tensor, EmbedState | None]:  # [B, T, dim]
        return self.tokens(tokens, dtype), None


@dataclass(frozen=True)
class SmearBigramConfig:
    """x = Smear(RMS(E[tokens] + scale * P(bigram))), the embedding of pull request 465."""

    bigram_rows: int = 4096
    bigram_dim: int = 128
    bigram_scale: float = 0.05
    init_std: float = 0.005

    def build(self, vocab_size: int, dim: int) -> "SmearBigramEmbedding":
        return SmearBigramEmbedding(self, vocab_size, dim)


class SmearBigramEmbedding(nn.Module):
    """The same contract as `TokenEmbedding`; its state is the last token and the last row before the smear."""

    def __init__(self, config: SmearBigramConfig, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = Table(vocab_size, dim)
        self.bigram = BigramHash(config.bigram_rows, config.bigram_dim, dim, config.bigram_scale)
        self.smear = SmearGate(dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.tokens.weight, std=self.config.init_std)
        # The table is zero, the projection is not (the model's initialiser makes it orthogonal): two zeros in a
        # product would never get a gradient.
        nn.init.zeros_(self.bigram.table.weight)

    def forward(
        self,
        tokens: Tensor,  # [B, T] int64
        dtype: torch.dtype,
        state: EmbedState | None = None,
    ) -> tuple[Tensor, EmbedState]:  # [B, T, dim]
        last_token, last_row = (None, None) if state is None else state
        x = rms_norm(self.tokens(tokens, dtype) + self.bigram(tokens, dtype, last_token))
        return self.smear(x, last_row), (tokens[:, -1], x[:, -1])


class BigramHash(nn.Module):
    """A hashed table of token pairs: [B, T] ids -> [B, T, dim]."""

    def __init__(self, num_rows: int, row_dim: int, dim: int, scale: float) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.table = Table(num_rows, row_dim)
        self.project = Linear(row_dim, dim)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, tokens: Tensor, dtype: torch.dtype, last_token: Tensor | None) -> Tensor:
        rows = bigram_rows(tokens, self.num_rows, last_token)
        return self.scale.to(dtype) * self.project(self.table(rows, dtype))


def bigram_rows(
    tokens: Tensor,  # [B, T]
    num_rows: int,
    last_token: Tensor | None = None,  # [B], the token before the first; None at the start of a text
) -> Tensor:  # [B, T] int64 in [0, num_rows)
    """The table row of every (token, predecessor) pair, hashed in 32-bit integers."""
    ids = tokens.int()
    hashed = (36313 * ids[:, 1:] ^ 27191 * ids[:, :-1]) % (num_rows - 1)
    if last_token is None:
        first = torch.full_like(ids[:, :1], num_rows - 1)
    else:
        first = (36313 * ids[:, :1] ^ 27191 * last_token.int()[:, None]) % (num_rows - 1)
    return torch.cat((first, hashed), dim=1).long()


class SmearGate(nn.Module):
    """Blends every row with its predecessor; at the start (gate 0) half and half."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, last_row: Tensor | None = None) -> Tensor:
        first = torch.zeros_like(x[:, :1]) if last_row is None else last_row[:, None]
        before = torch.cat((first, x[:, :-1]), dim=1)
        return torch.lerp(x, before, torch.sigmoid(self.gate).to(x.dtype))
