"""Quantisation by rate as a part of a recipe: what is measured when training ends, and steps that fill the budget.

Second moments of what the matrices are multiplied with come from training batches, so measuring them is training: the
clock runs. Steps are then as fine as code and model fit the budget together; the plan says what they are relative to
each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.linear import Linear
from optim.groups import accumulation_steps
from optim.trainer import TrainConfig, Trainer
from quantize.fit import fit_steps, more_weights
from quantize.grid import Coded, Codes
from quantize.hessian import InputMoments
from quantize.plan import Rule, quantize
from runtime.errors import UserError


@dataclass(frozen=True)
class RateQuantizer:
    """What takes the place of the plan alone: calibration at the end of training, and a fit to the budget after it."""

    batches: int = 16  # steps' worth of training tokens to measure
    seconds: float = 2.0  # of the training clock, kept back for that
    finest: float = 0.125  # of the plan's steps; finer ones are of no use

    def __post_init__(self) -> None:
        if self.batches < 1 or self.finest <= 0:
            raise UserError(
                f"calibration takes at least 1 batch, and the finest steps are some, got {self.batches} and "
                f"{self.finest:g}; usual are 16 and 0.125"
            )

    def before(self, train: TrainConfig) -> TrainConfig:
        """What remains for training itself."""
        return train if train.seconds is None else replace(train, seconds=max(0.0, train.seconds - self.seconds))

    @torch.no_grad()
    def moments(
        self,
        trainer: Trainer,
        tell: Any,  # a Teller: who logs the run
    ) -> dict[str, Tensor]:
        """X^T X / N [cols, cols] of every matrix and of the table that makes logits, by their weights; on the CPU.

        They are of the loader's next batches under the weights that the trainer holds now. The training clock runs.
        Every rank must call this.
        """
        trainer.clock.start()
        model, machine = trainer.model, trainer.machine
        matrices = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear)}
        (head,) = (name for name, weight in trainer.weights.items() if weight is model.head_table)
        with InputMoments(matrices) as moments:
            for _ in range(self.batches * accumulation_steps(trainer.config.num_slices, machine.world_size)):
                hidden, _ = model.hidden(trainer.loader.next()[0].to(machine.device))
                moments.add(head, hidden)
        # One memory each, as a file of tensors wants it.
        found = {name: moment.to("cpu", copy=True) for name, moment in moments.finish(machine).items()}
        trainer.clock.pause()
        tell.calibrated(trainer)
        return found

    def codes(
        self,
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],  # by weight
        pack: Any,  # the PackConfig that this is part of
        packed: Callable[[Codes], bytes],
        code_bytes: int,
        tell: Callable[[str], None],  # what keeps a line of the log
    ) -> Codes:
        """The codes with which code and model end within 0.1 % under the budget, or those of the finest steps.

        Where the tensors are so few that their steps jump over that, the largest that were met. `tell` is given a line
        about the search. Raises UserError when no steps fit.
        """

        @cache
        def attempt(multiplier: float) -> tuple[Codes, int]:
            codes = quantize(weights, plan_with_steps(pack.plan, multiplier), pack.prune, moments)
            return codes, code_bytes + len(packed(codes))

        own, own_size = attempt(1.0)
        on_grids = sum(coded.integers.numel() for coded in own.values() if isinstance(coded, Coded))
        fit = fit_steps(lambda multiplier: attempt(max(multiplier, self.finest))[1], pack.budget, on_grids)
        multiplier = max(fit.multiplier, self.finest)
        codes, size = attempt(multiplier)
        room = more_weights(own_size - code_bytes, pack.budget - code_bytes, on_grids)
        fits = f"room for {room} more parameters" if room >= 0 else f"{-room} parameters too many"
        tell(
            f"steps x{multiplier:.4f} of the plan's{', the finest' if multiplier == self.finest else ''} "
            f"({attempt.cache_info().misses} tried): code and model {size} of {pack.budget} bytes; "
            f"at the plan's own {own_size}, {fits}"
        )
        return codes


def plan_with_steps(plan: tuple[Rule, ...], multiplier: float) -> tuple[Rule, ...]:
    """The plan with every step rule by rate `multiplier` times as coarse.

    >>> from quantize.steps import UNIFORM, TensorStep
    >>> [rule.scale for rule in plan_with_steps((Rule("all", UNIFORM, scale=TensorStep(8.0)),), 0.5)]
    [TensorStep(k=4.0)]
    """
    return tuple(
        replace(rule, scale=replace(rule.scale, k=rule.scale.k * multiplier)) if hasattr(rule.scale, "k") else rule
        for rule in plan
    )
