"""Muon: momentum whose matrices are orthogonalised before they move the weights.

m <- μ m + g;  u = NewtonSchulz(g + μ m) sqrt(max(1, rows / cols));  p <- p (1 - lr wd) - lr u

Matrices of one shape form a stack; each rank orthogonalises its share of every stack and the shares are gathered, which
on one rank is the whole stack and no communication. Momentum is kept in full on every rank, so that a checkpoint does
not depend on how many ranks wrote it.

1. Jordan et al. 2024, Muon.  2. Loshchilov and Hutter 2019, arXiv 1711.05101 (decoupled weight decay).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ops.newton_schulz.batched import newton_schulz
from runtime.machine import Machine


class Muon(torch.optim.Optimizer):
    """Steps 2-D parameters; a schedule may change a group's `lr`, `momentum` and `weight_decay` at any step."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        *,
        machine: Machine,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,  # of Newton-Schulz
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._machine = machine
        self._steps = steps

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            directions = self._nesterov(params, group["momentum"])
            for shape in sorted({p.shape for p in params}):
                members = [i for i, p in enumerate(params) if p.shape == shape]
                updates = self._orthogonalise([directions[i] for i in members])
                scale = math.sqrt(max(1.0, shape[0] / shape[1]))
                stack = [params[i] for i in members]
                torch._foreach_mul_(stack, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(stack, updates, alpha=-group["lr"] * scale)

    def _nesterov(self, params: list[Tensor], momentum: float) -> list[Tensor]:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in params]
        grads = [p.grad for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        return torch._foreach_add(grads, buffers, alpha=momentum)

    def _orthogonalise(self, directions: list[Tensor]) -> list[Tensor]:
        """This rank's share of the stack, orthogonalised, then everybody's: fp32, in the order of `directions`."""
        rank, world_size = self._machine.rank, self._machine.world_size
        share = math.ceil(len(directions) / world_size)
        own = directions[rank * share : (rank + 1) * share]
        # Ranks send shares of one size: the last ones are filled up with zero matrices, which stay zero.
        own = own + [torch.zeros_like(directions[0])] * (share - len(own))
        updates = newton_schulz(torch.stack(own), self._steps, self._machine.compute_dtype)
        return list(self._machine.gather(updates).float().unbind()[: len(directions)])
