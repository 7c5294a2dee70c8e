"""BakaLLM, branch zero: a text in chunks, each of which begins with what the one before has made of itself.

Two things go on from chunk to chunk: memory tokens (memory.py), and of every layer the keys, the values and the moving
average of the chunk before. A chunk is a window (model/windowed.py) between memories.

1. BakaLLM, branch zero ("bakanet2_mega_qk_v_mismatch"), and the author's post, part 2.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from model.baka.block import BakaBlockConfig
from model.baka.memory import MemoryConfig
from model.embed import PlainEmbeddingConfig, UntiedHead
from model.layer_norm import LayerNorm
from model.linear import Linear
from model.windowed import WindowedModel
from ops.rotary.pairs import PairAngles, pair_angles
from runtime.errors import UserError

# The memory of the present chunk (of the next one, once a chunk is closed), the position of its first token, and its
# rows after the last layer so far: [B, num_tokens, dim], [B] int64, [B, N, dim].
Place = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class BakaConfig:
    """`window` is the tokens of a chunk; the solidifier is one more block like the first layer.

    `bptt` is where gradients stop within a call: after every even chunk ("every_second_chunk"), in every second cache,
    counted over chunks and layers, and in no memory ("released"), nowhere ("full"), or between all chunks ("none").
    `positions`: rows count from their chunk's first token, so that neighbouring chunks overlap by the memory
    ("released"), or all rows are counted. `angles`: in fp32, or in the dtype of the activations as released.
    """

    vocab_size: int
    dim: int
    layers: tuple[BakaBlockConfig, ...]
    window: int = 512
    memory: MemoryConfig = MemoryConfig()
    embed: PlainEmbeddingConfig = PlainEmbeddingConfig(init_std=1.0)
    tied: bool = False  # the head is the embedding's table
    softcap: float | None = None
    bptt: Literal["every_second_chunk", "released", "full", "none"] = "every_second_chunk"
    positions: Literal["released", "contiguous"] = "released"
    angles: Literal["fp32", "released"] = "fp32"
    has_bounded_state: ClassVar[bool] = True

    def build(self, compute_dtype: torch.dtype = torch.float32) -> "Baka":
        return Baka(self, compute_dtype)

    def mixing_flops(self, window: int) -> float:
        """Forward operations a token of texts of `window` tokens beyond every matrix once: memory rows and attention.

        The solidifier runs some of its matrices on its last rows alone, so this may be below zero.
        """
        chunks, tokens = math.ceil(window / self.window), min(window, self.window)
        count = self.memory.num_tokens
        rows = tokens + 2 * (count + 1 if count else 0)
        past = rows * (chunks - 1) / chunks
        chunk = sum(layer.chunk_flops(self.dim, rows, past) for layer in self.layers)
        matrices = sum(8 * self.dim**2 + 3 * self.dim * layer.mlp.hidden for layer in self._blocks)
        solidifier = self.layers[0].chunk_flops(self.dim, rows, 0, count) if count else 0
        return (chunk + solidifier) / tokens - 2 * matrices

    @property
    def _blocks(self) -> tuple[BakaBlockConfig, ...]:
        return (*self.layers, self.layers[0]) if self.memory.num_tokens else self.layers


class Baka(WindowedModel):
    """Layers over chunks. The state is the place in the text and a `BlockState` a layer."""

    def __init__(self, config: BakaConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        if config.memory.num_tokens < 0 or config.dim % 2:
            raise UserError(
                f"a memory holds at least 0 tokens, and the width is even, got {config.memory.num_tokens} and "
                f"{config.dim}; nearest {max(0, config.memory.num_tokens)} and {config.dim + config.dim % 2}"
            )
        self.memory = config.memory.build(config.dim, config.embed.init_std, config.layers[0])
        self.layers = nn.ModuleList(layer.build(config.dim) for layer in config.layers)
        self.norm = LayerNorm(config.dim)
        self.head = None if config.tied else UntiedHead(config.vocab_size, config.dim)

    def forgetful(self, state: tuple, what: Literal["memory", "caches", "both"]) -> tuple:
        """A state between two chunks without its memory, or without what the layers keep, to see what each is worth."""
        (memory, start, rows), *layers = state
        if what != "caches":
            memory = self.memory.first.to(memory.dtype).expand_as(memory)
        if what != "memory":
            layers = (layer.fresh(memory) for layer in self.layers)
        return ((memory, start, rows), *layers)

    def fresh(self, x: Tensor) -> tuple:
        """The state before a text, for rows and dtype of x [B, T, dim]."""
        memory = self.memory.first.to(x.dtype).expand(x.shape[0], -1, -1)
        start = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return ((memory, start, x[:, :0]), *(layer.fresh(x) for layer in self.layers))

    def filled(self, state: tuple) -> int:
        """How many tokens of the present chunk are read; 0 before the first chunk and between two."""
        num_rows = state[1][2].shape[1]
        border = self.memory.num_rows
        return 0 if num_rows in (0, self.config.window + 2 * border) else num_rows - border

    def opened(self, state: tuple, number: int) -> tuple:
        """The state at the begin of a chunk, the `number`th of this call from 0; gradients stop here as configured.

        What an earlier call has handed on is detached or not by whoever carries it.
        """
        (memory, start, _), *states = state
        if number and self._stops(number, layer=None):
            memory = memory.detach()
        opened = []
        for index, (layer, own) in enumerate(zip(self.layers, states, strict=True)):
            if number and self._stops(number, index):
                own = tuple(part.detach() for part in own)
            opened.append(layer.opened(own))
        return ((memory, start, memory[:, :0]), *opened)

    def _stops(self, number: int, layer: int | None) -> bool:
        """Whether what a layer (None: the memory) hands to chunk `number` carries no gradient."""
        if self.config.bptt == "released":
            return layer is not None and ((number - 1) * len(self.layers) + layer) % 2 == 1
        return {"every_second_chunk": number % 2 == 0, "full": False, "none": True}[self.config.bptt]

    def read(self, x: Tensor, state: tuple, closes: bool) -> tuple[Tensor, tuple]:
        """The last layer's output for the tokens x [B, T, dim] of one chunk, and the state after them."""
        (memory, start, rows), *states = state
        nothing, count, row = x[:, :0], x.shape[1], states[0][2].shape[1]
        before = nothing if row else self.memory.before(memory)
        x = torch.cat((before, x, self.memory.after(memory) if closes else nothing), dim=1)
        angles = self._angles(start, row, x)
        after = []
        for layer, own in zip(self.layers, states, strict=True):
            x, own = layer(x, own, angles)
            after.append(own)
        part, rows = x[:, before.shape[1] :][:, :count], torch.cat((rows, x), dim=1)
        if closes:
            memory = self.memory.solidified(rows, self._angles(torch.zeros_like(start), 0, rows))
            start, rows = start + self.config.window, nothing
        return part, ((memory, start, rows), *after)

    def _angles(self, start: Tensor, row: int, x: Tensor) -> PairAngles:
        """Of the rows x [B, T, dim] of the chunk whose first token stands at `start` [B], from its row `row` on."""
        config = self.config
        if config.positions == "contiguous":
            start = start + start // config.window * 2 * self.memory.num_rows
        positions = start[0] + torch.arange(row, row + x.shape[1], device=x.device)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return pair_angles(positions, config.dim, dtype=wide if config.angles == "fp32" else x.dtype)

    def initialise(self, linear: Linear, name: str) -> None:
        """Uniform within 1 / sqrt(in_features); the solidifier sees no chunk before, so its gates for one pack away."""
        if name.startswith("memory.solidifier.attention.past"):
            nn.init.zeros_(linear.weight)
        else:
            super().initialise(linear, name)
