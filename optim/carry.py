"""Training that carries the model's state from one window of a document to the next, without its gradient.

A loader of documents says which slice continues which; a lane of it keeps one state, on the rank that runs the lane.
"""

from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from optim.trainer import Trainer
from runtime.checkpoint import prefixed, with_prefix
from runtime.errors import UserError
from runtime.machine import Machine


class CarryingTrainer(Trainer):
    """A trainer over a `DocumentLoader`; the states are part of the checkpoint, those of all ranks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.config.curriculum:
            raise UserError("documents are followed in rows of one length, got a curriculum; nearest none")
        self.carried: dict[int, tuple] = {}  # the state of each lane of this rank that goes on

    @property
    def tokens(self) -> int:
        """Fewer than slices would hold: rows of documents that have ended are no rows."""
        return self.loader.tokens

    def nats(self, x: Tensor, y: Tensor) -> Tensor:
        lane = self.loader.lane
        nats, state = self.forward(x, y, self.carried.pop(lane, None))
        if going_on := self.loader.going_on(lane):
            self.carried[lane] = detached_rows(state, going_on)
        return nats

    def _share_gradients(self) -> None:
        """A weight that only the begin of a text reaches has a gradient on all ranks where it has one on any."""
        weights = self.weights.values()
        counts = torch.tensor([float(weight.grad is not None) for weight in weights], device=self.machine.device)
        for weight, count in zip(weights, self.machine.sum_(counts).tolist(), strict=True):
            if count and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        super()._share_gradients()

    def state(self) -> tuple[dict[str, Tensor], dict]:
        tensors, facts = super().state()
        own: dict[str, Tensor] = {}
        for lane, state in self.carried.items():
            own |= flat_state(state, str(lane))
        return tensors | prefixed("carried", gathered(own, self.machine)), facts

    def restore(self, tensors: dict[str, Tensor], facts: dict) -> None:
        super().restore(tensors, facts)
        held = with_prefix("carried", tensors)
        # Not those of other ranks: grown old here, they would take the place of the true ones in the next checkpoint.
        lanes = {path.partition(".")[0] for path in held}
        own = [lane for lane in lanes if int(lane) % self.machine.world_size == self.machine.rank]
        self.carried = {int(lane): state_of(held, lane, self.machine.device) for lane in own}


def detached_rows(state: Any, count: int) -> Any:
    """The first `count` rows of every tensor [B, ...] in nested tuples, cut from the graph."""
    if isinstance(state, tuple):
        return tuple(detached_rows(part, count) for part in state)
    return state[:count].detach()


def flat_state(state: Any, path: str) -> dict[str, Tensor]:
    """Every tensor of nested tuples by its path: "3.0.2" is the third of the first of `path` "3".

    >>> flat_state((torch.zeros(1), (torch.ones(1),)), "3")
    {'3.0': tensor([0.]), '3.1.0': tensor([1.])}
    """
    if not isinstance(state, tuple):
        return {path: state}
    parts = [flat_state(part, f"{path}.{index}") for index, part in enumerate(state)]
    return {name: tensor for part in parts for name, tensor in part.items()}


def state_of(flat: dict[str, Tensor], path: str, device: torch.device) -> Any:
    """The inverse of `flat_state`, on `device`."""
    if path in flat:
        return flat[path].to(device)
    count = len({name.removeprefix(f"{path}.").partition(".")[0] for name in flat if name.startswith(f"{path}.")})
    return tuple(state_of(flat, f"{path}.{index}", device) for index in range(count))


def gathered(tensors: dict[str, Tensor], machine: Machine) -> dict[str, Tensor]:
    """The tensors of all ranks, whose names differ, on every rank: their shapes differ too, so they travel as bytes."""
    if machine.world_size == 1:
        return tensors
    held = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    data = torch.frombuffer(bytearray(held), dtype=torch.uint8).to(machine.device)
    sizes = machine.gather(torch.tensor([len(data)], device=machine.device)).tolist()
    whole = machine.gather(F.pad(data, (0, max(sizes) - len(data)))).cpu()
    parts = [part[:size] for part, size in zip(whole.split(max(sizes)), sizes, strict=True)]
    return {name: tensor for part in parts for name, tensor in load(part.numpy().tobytes()).items()}
