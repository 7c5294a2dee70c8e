"""Which parameter is moved by what: ordered rules, first match wins, printed as a table at the start of every run."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optim.muon import Muon
from optim.schedule import WarmdownFraction, WarmdownSteps, WarmupCosine, warmed_momentum
from runtime.errors import UserError
from runtime.machine import Machine

# (group, pattern searched in the parameter's name). Matrices and tables end in ".weight", control vectors do not.
ROUTES = (
    ("embedding", r"^embed\.(tokens|bigram\.table)\.weight$"),
    ("matrix", r"\.weight$"),
    # The logarithms of time constants: pulling them to 0 means something else than small weights.
    ("undecayed", r"\.(decay_log|step_bias)$"),
    ("scalar", r""),
)


@dataclass(frozen=True)
class OptimConfig:
    """Learning rates a group, the two optimisers' settings, clipping (None: off) and the schedule of the rates."""

    matrix_optimizer: Literal["muon", "adamw"] = "muon"
    matrix_lr: float = 0.02
    embedding_lr: float = 0.03
    scalar_lr: float = 0.02
    momentum: float = 0.99
    momentum_start: float = 0.92
    momentum_warmup_steps: int = 1500
    muon_weight_decay: float = 0.04
    adam_weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    grad_clip: float | None = 0.3
    warmdown: WarmdownSteps | WarmdownFraction | WarmupCosine = field(default_factory=WarmdownSteps)


def route(name: str) -> str:
    """The group of the parameter `name`.

    >>> route("layers.3.attention.query.weight"), route("embed.tokens.weight"), route("layers.3.resid_mix")
    ('matrix', 'embedding', 'scalar')
    """
    return next(group for group, pattern in ROUTES if re.search(pattern, name))


class Optimizers:
    """Muon for matrices (or AdamW, as the config says) and AdamW for the rest, scheduled, stepped and saved as one.

    `groups` maps a group's name to its parameters by name; `routes_table()` is what the log prints.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, machine: Machine) -> None:
        self._config = config
        self.groups: dict[str, dict[str, Tensor]] = {group: {} for group, _ in ROUTES}
        for name, parameter in model.named_parameters():
            self.groups[route(name)][name] = parameter
        by_muon = {"matrix"} if config.matrix_optimizer == "muon" else set()
        adam = [self._settings(group) for group in self.groups if self.groups[group] and group not in by_muon]
        self._optimizers: list[torch.optim.Optimizer] = [
            Muon([self._settings(group)], momentum=config.momentum_start, machine=machine) for group in by_muon
        ]
        self._optimizers.append(torch.optim.AdamW(adam, betas=config.adam_betas, eps=config.adam_eps, fused=True))
        self._names = {p: name for members in self.groups.values() for name, p in members.items()}

    def _settings(self, group: str) -> dict[str, Any]:
        """The parameter group of that name, as its optimiser takes it."""
        config = self._config
        rates = {"matrix": config.matrix_lr, "embedding": config.embedding_lr}
        decays = {
            "undecayed": 0.0,
            **({"matrix": config.muon_weight_decay} if config.matrix_optimizer == "muon" else {}),
        }
        rate = rates.get(group, config.scalar_lr)
        return {
            "params": list(self.groups[group].values()),
            "name": group,
            "lr": rate,
            "base_lr": rate,
            "weight_decay": decays.get(group, config.adam_weight_decay),
        }

    def routes_table(self) -> str:
        """Group, optimiser, learning rate, weight decay, tensors, elements and an example of each group."""
        lines = [f"{'group':<10} {'optimiser':<9} {'lr':>7} {'decay':>6} {'tensors':>7} {'elements':>11}  first"]
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                members = self.groups[group["name"]]
                lines.append(
                    f"{group['name']:<10} {type(optimizer).__name__:<9} {group['base_lr']:>7g} "
                    f"{group['weight_decay']:>6g} {len(members):>7} "
                    f"{sum(p.numel() for p in members.values()):>11,}  {next(iter(members))}"
                )
        return "\n".join(lines)

    def clip(self) -> Tensor:
        """Scales the gradients so that their global norm is at most `grad_clip`; returns the norm before, 0-d."""
        grads = [p.grad for p in self._names if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self._config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(list(self._names), self._config.grad_clip, norm)
        return norm

    def step(self, step: int, multiplier: float) -> None:
        """One update with every learning rate times `multiplier`; `step` counts from 0 and sets Muon's momentum."""
        config = self._config
        momentum = warmed_momentum(step, config.momentum_start, config.momentum, config.momentum_warmup_steps)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group |= {"lr": group["base_lr"] * multiplier, "momentum": momentum}
            optimizer.step()

    def zero_grad(self) -> None:
        for p in self._names:
            p.grad = None

    def not_finite(self) -> str:
        """Names the groups whose weights or gradients hold a value that is not finite, and where."""
        found = []
        for group, members in self.groups.items():
            for kind, tensors in (("weights", members), ("gradients", {n: p.grad for n, p in members.items()})):
                bad = [n for n, t in tensors.items() if t is not None and not torch.isfinite(t).all()]
                if bad:
                    found.append(f"{group} {kind} ({bad[0]}{f' and {len(bad) - 1} more' if len(bad) > 1 else ''})")
        return ", ".join(found) or "no group: the loss alone"

    def state_dict(self) -> dict[str, Tensor]:
        """Every state tensor as `parameter name:key`, flat, for a checkpoint."""
        return {
            f"{self._names[p]}:{key}": value
            for optimizer in self._optimizers
            for p, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state_dict` gave; an empty dict is the state before the first step."""
        for optimizer in self._optimizers:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                for p in group["params"]:
                    prefix = f"{self._names[p]}:"
                    for key, value in tensors.items():
                        if key.startswith(prefix):
                            optimizer.state[p][key[len(prefix) :]] = value.to(p.device, copy=True)


def accumulation_steps(num_slices: int, world_size: int) -> int:
    """How many slices of the global batch each rank runs in a step. Raises UserError when they do not divide.

    >>> accumulation_steps(8, 2)
    4
    """
    if num_slices % world_size:
        fitting = [n for n in range(1, num_slices + 1) if num_slices % n == 0]
        raise UserError(
            f"the ranks must divide the slices of a step: {world_size} ranks, {num_slices} slices; "
            f"nearest number of ranks {min(fitting, key=lambda n: abs(n - world_size))}"
        )
    return num_slices // world_size
