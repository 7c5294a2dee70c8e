"""The training loop: slices in, averaged weights out, resumable bit for bit.

A step runs `num_slices` slices of the token stream, shared out among the ranks and accumulated, so that 1, 2, 4 and 8
ranks see the same tokens in the same step. What the clock says is agreed among the ranks once a step; every decision
that depends on it (learning rate, stop) is then the same everywhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from data.coprime import CoprimeLoader
from data.loader import SequentialLoader
from optim.average import EMA, SWA
from optim.curriculum import Curriculum
from optim.groups import Optimizers, accumulation_steps
from optim.schedule import Progress, WarmdownFraction, WarmdownSteps, WarmupCosine
from runtime.checkpoint import (
    load_checkpoint,
    prefixed,
    random_state,
    restore_random_state,
    save_checkpoint,
    with_prefix,
)
from runtime.clock import TrainingClock
from runtime.errors import UserError
from runtime.machine import Machine, dtype_name
from runtime.signals import TerminationRequest


@dataclass(frozen=True)
class TrainConfig:
    """Budget, batch and cadence of a run; None switches a cadence or a limit off."""

    seed: int = 1337
    seconds: float | None = 600.0  # of the training clock
    steps: int | None = 20_000
    tokens_per_step: int = 524_288  # over all ranks
    window: int = 1024  # tokens a row
    num_slices: int = 8  # of a step's tokens; the number of ranks must divide it
    log_every: int = 50
    validate_every: int | None = 1000
    checkpoint_every: int | None = 500
    warmup_steps: int = 20  # compile warm-up, CUDA only; weights, optimisers and loader are restored after it
    curriculum: Curriculum | None = None  # shorter rows first
    compute_dtype: Literal["bf16", "fp32"] | None = None  # None: what this machine is fastest in

    @property
    def tokens_per_slice(self) -> int:
        return self.tokens_per_step // self.num_slices

    def check(self, world_size: int) -> None:
        """Raises UserError unless the global batch divides into slices of whole windows and slices into ranks."""
        unit = self.num_slices * self.window
        if self.tokens_per_step < unit or self.tokens_per_step % unit:
            raise UserError(
                f"tokens a step must be a multiple of slices x window = {self.num_slices} x {self.window} = {unit}, "
                f"got {self.tokens_per_step}; nearest {max(1, round(self.tokens_per_step / unit)) * unit}"
            )
        accumulation_steps(self.num_slices, world_size)
        if self.curriculum:
            self.curriculum.check(self.window)
        if self.seconds is None and self.steps is None:
            raise UserError(
                "a run needs a budget: --train.seconds and --train.steps are both none; nearest 600 seconds"
            )


class NonFiniteLossError(RuntimeError):
    """The loss or a gradient stopped being a number; the message names the step and the parameter groups."""

    exit_code = 3


@dataclass(frozen=True)
class StepReport:
    """What one step did: `step` counts from 1, `loss` is the mean over the step's tokens in nats."""

    step: int
    loss: float
    grad_norm: float
    multiplier: float
    seconds: float  # of the training clock


class Trainer:
    """Holds all that moves during training; `state` of it goes into the checkpoint and comes back bit for bit."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: nn.Module,  # the weights; tokens, targets -> nats, state
        forward: Callable,  # the same model, compiled where the machine compiles
        optimizers: Optimizers,
        average: SWA | EMA | None,
        warmdown: WarmdownSteps | WarmdownFraction | WarmupCosine,
        loader: SequentialLoader | CoprimeLoader,
        machine: Machine,
        identity: str,  # the recipe's fingerprint: a checkpoint of another recipe is refused
    ) -> None:
        config.check(machine.world_size)
        self.config, self.machine, self.identity = config, machine, identity
        self.model, self.forward, self.loader = model, forward, loader
        self.optimizers, self.average, self.warmdown = optimizers, average, warmdown
        self.weights = dict(model.named_parameters())
        self.clock = TrainingClock(machine)
        self.step = 0
        self.stopped_by_signal = False
        self._accumulate = accumulation_steps(config.num_slices, machine.world_size)

    def run(self, on_step: Callable[[StepReport], None], checkpoint: Path) -> None:
        """Trains until the budget is spent or SIGTERM comes, then writes the checkpoint.

        `on_step` sees every step with the clock running; whoever takes time there pauses it. Raises
        NonFiniteLossError, which leaves the last checkpoint as it was.
        """
        termination = TerminationRequest()
        self.clock.start()
        seconds = self.clock.seconds()
        while True:
            before = seconds
            seconds, asked = self._agree(self.clock.seconds(), bool(termination))
            progress = Progress(self.step, seconds, self.config.steps, self.config.seconds, seconds - before)
            self.stopped_by_signal = asked and not progress.finished
            if progress.finished or asked:
                break
            on_step(self._one_step(progress))
            if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                self.save(checkpoint)
        self.clock.pause()
        self.save(checkpoint)

    def _one_step(self, progress: Progress) -> StepReport:
        multiplier = self.warmdown.multiplier(progress)
        loss = self._gradients()
        grad_norm = float(self.optimizers.clip())
        if not math.isfinite(loss + grad_norm):
            raise NonFiniteLossError(
                f"step {self.step + 1}: the loss is {loss:g} and the gradient norm {grad_norm:g}; not finite: "
                f"{self.optimizers.not_finite()}; the last checkpoint is untouched"
            )
        self.optimizers.step(self.step, multiplier)
        self.optimizers.zero_grad()
        self.step += 1
        if self.average:
            self.average.update(self.weights, self.step, multiplier)
        return StepReport(self.step, loss, grad_norm, multiplier, self.clock.seconds())

    def _gradients(self) -> float:
        """Leaves the gradient of the step's mean loss in every parameter, the same on all ranks; returns that loss."""
        total = torch.zeros((), dtype=torch.float32, device=self.machine.device)
        for _ in range(self._accumulate):
            x, y = (part.to(self.machine.device, non_blocking=True) for part in self.loader.next())
            if self.config.curriculum:
                x, y = (self.config.curriculum.rows(part, self.step * self.config.tokens_per_step) for part in (x, y))
            loss = self.nats(x, y).mean() / self.config.num_slices
            loss.backward()
            total += loss.detach()
        self._share_gradients()
        return float(self.machine.sum_(total))

    @property
    def tokens(self) -> int:
        """Targets that all ranks have trained on."""
        return self.step * self.config.tokens_per_step

    def nats(self, x: Tensor, y: Tensor) -> Tensor:
        """Of one slice, from the start of every row."""
        return self.forward(x, y)[0]

    def _share_gradients(self) -> None:
        """Sums the ranks' gradients as one flat message."""
        if self.machine.world_size == 1:
            return
        grads = [p.grad for p in self.weights.values() if p.grad is not None]
        flat = self.machine.sum_(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def _agree(self, seconds: float, asked: bool) -> tuple[float, bool]:
        """The slowest rank's clock, and whether any rank was asked to stop."""
        pair = torch.tensor([seconds, float(asked)], dtype=torch.float64, device=self.machine.device)
        slowest, any_asked = self.machine.max_(pair).tolist()
        return slowest, any_asked > 0

    def warm_up(self, steps: int) -> None:
        """Runs real steps so that everything is compiled, then puts weights, optimisers, average and loader back."""
        tensors, facts = self.state()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        for _ in range(steps):
            self._one_step(Progress(self.step, 0.0, None, None))
        self.restore(tensors, facts)

    @torch.no_grad()
    def use_average(self) -> None:
        """Puts the average in the place of the last weights; they stay in the checkpoint."""
        for name, weight in self.average.averaged(self.weights).items():
            self.weights[name].copy_(weight)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything that the next step depends on: tensors by name, and JSON-able facts."""
        averaged, average_facts = self.average.state_dict() if self.average else ({}, {})
        tensors = {
            **prefixed("model", {name: p.detach() for name, p in self.weights.items()}),
            **prefixed("optim", self.optimizers.state_dict()),
            **prefixed("average", averaged),
            **prefixed("random", random_state(self.machine.device)),
        }
        facts = {
            "step": self.step,
            "seconds": self.clock.seconds(),
            "loader": self.loader.state_dict(),
            "average": average_facts,
            "identity": self.identity,
            "compute_dtype": dtype_name(self.machine.compute_dtype),
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            for name, weight in with_prefix("model", tensors).items():
                self.weights[name].copy_(weight)
        self.optimizers.load_state_dict(with_prefix("optim", tensors))
        if self.average:
            self.average.load_state_dict(with_prefix("average", tensors), facts["average"])
        restore_random_state(with_prefix("random", tensors), self.machine.device)
        self.loader.load_state_dict(facts["loader"])
        self.step = facts["step"]
        self.clock = TrainingClock(self.machine, facts["seconds"])

    def save(self, path: Path) -> None:
        """Writes the checkpoint (the first rank; all hold the same)."""
        tensors, facts = self.state()
        if self.machine.is_main:
            save_checkpoint(path, tensors, facts)

    def resume(self, path: Path) -> bool:
        """Continues from `path` if it is there. Raises UserError when it is of another recipe."""
        if not path.exists():
            return False
        tensors, facts = load_checkpoint(path)
        if facts["identity"] != self.identity:
            raise UserError(
                f"{path} is of another recipe or other overrides (fingerprint {facts['identity']}, this run "
                f"{self.identity}); give this run a RUN_ID of its own"
            )
        self.restore(tensors, facts)
        return True
