"""The second moments of what matrices are multiplied with: H = X^T X / N over calibration tokens, X [N, cols].

They are what GPTQ weighs its errors by. Modules show their inputs to a hook; what is multiplied outside of a module, as
the last hidden state is with the tied embedding, is added by hand:

    with InputMoments({"layers.0.mlp.up.weight": model.layers[0].mlp.up}) as moments:
        for tokens in batches:
            hidden, _ = model.hidden(tokens)
            moments.add("embed.tokens.weight", hidden)
    hessians = moments.finish(machine)
"""

from collections.abc import Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from runtime.errors import UserError
from runtime.machine import Machine


class InputMoments:
    """Sums X^T X in fp32 on the device of X; matrices shown the very same tensor one after another share."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules  # by the name of their weight
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._shared_with: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self.modules.items():
            self._hooks.append(module.register_forward_pre_hook(partial(self._seen, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._last = [], None

    @torch.no_grad()
    def add(self, name: str, inputs: Tensor) -> None:
        """Counts in `inputs` [..., cols], by which the matrix `name` is multiplied."""
        owner = self._last[0] if self._last is not None and self._last[1] is inputs else name
        if self._shared_with.setdefault(name, owner) != owner:
            raise UserError(
                f"matrices must share their inputs always or never: {name} first had those of "
                f"{self._shared_with[name]}, now those of {owner}"
            )
        if owner == name:
            rows = inputs.detach().float().flatten(0, -2)
            self._sums[name] = self._sums.get(name, 0) + rows.T @ rows
            self._tokens[name] = self._tokens.get(name, 0) + len(rows)
            self._last = name, inputs

    def finish(self, machine: Machine) -> dict[str, Tensor]:
        """H [cols, cols] of every matrix, over the tokens of all ranks; shared ones are one tensor.

        Every rank must have shown inputs to the same matrices. Raises UserError for a module that was never called.
        """
        silent = sorted(self.modules.keys() - self._shared_with.keys())
        if silent:
            raise UserError(f"every matrix must be shown an input, {', '.join(silent)} was not: no batch reached it")
        moments = {name: self._mean(name, machine) for name in sorted(self._sums)}
        return {name: moments[owner] for name, owner in sorted(self._shared_with.items())}

    def _seen(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.add(name, inputs[0])

    def _mean(self, name: str, machine: Machine) -> Tensor:
        total = self._sums[name]
        tokens = machine.sum_(torch.tensor(self._tokens[name], dtype=torch.int64, device=total.device))
        return machine.sum_(total.clone()) / tokens
