"""What every model has in common: from tokens to a residual, from the residual to nats through the tied table."""

from typing import Any

import torch
from torch import Tensor, nn

from model.linear import Linear
from ops.cross_entropy.softcap import softcapped_logits, softcapped_nats


class LanguageModel(nn.Module):
    """The model contract: unreduced nats in fp32, and a state with one entry a layer, the embedding's first.

    A model adds two methods: `hidden(tokens, state)` gives what the head reads, [B, T, dim], and the state after;
    `initialise(linear, name)` fills the weight of a matrix. The config's `embed` makes the first residual and holds
    `tokens.weight`, which is also the head. Activations run in `compute_dtype`; parameters stay fp32.
    """

    def __init__(
        self,
        config: Any,  # has embed, vocab_size, dim and softcap
        compute_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype, self.nats_of = compute_dtype, softcapped_nats
        self.embed = config.embed.build(config.vocab_size, config.dim)

    @property
    def head_table(self) -> Tensor:
        """What makes logits of the last residual, [vocab_size, dim]: the embedding's table, where nothing is untied."""
        return self.embed.tokens.weight

    def forward(
        self,
        tokens: Tensor,  # [B, T] int64
        targets: Tensor,  # [B, S] int64, S <= T: what follows each of the last S tokens
        state: tuple | None = None,  # of the text before `tokens`; None at its start
    ) -> tuple[Tensor, tuple]:  # nats [B, S] fp32, the state after `tokens`
        x, state = self.hidden(tokens, state)
        scored = x[:, x.shape[1] - targets.shape[1] :]
        nats = self.nats_of(scored.flatten(0, 1), self.head_table, targets.flatten(), self.config.softcap)
        return nats.view(targets.shape), state

    def logits(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """fp32 logits [B, T, vocab_size] of what follows each token, and the state after: for samplers and judges."""
        x, state = self.hidden(tokens, state)
        flat = softcapped_logits(x.flatten(0, 1), self.head_table, self.config.softcap)
        return flat.view(*tokens.shape, -1), state

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> "LanguageModel":
        """Initialises everything that starts at random from `seed`; the same on every rank and device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, module in self.named_modules():
                if isinstance(module, Linear):
                    self.initialise(module, name)
            for module in self.modules():
                if module is not self and hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        return self
