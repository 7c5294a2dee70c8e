"""Checkpoints: one safetensors file, tensors by name and one metadata key of canonical JSON; no pickle.

The file is written under a temporary name, synced and renamed: a run killed at any moment finds the old one or the new.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from runtime.errors import UserError
from runtime.files import write_bytes

# More than one metadata key gives a file whose bytes differ from save to save (safetensors issue 386).
_METADATA_KEY = "sixteen"


def save_checkpoint(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replaces `path` by `tensors` (any dtype; moved to the CPU) and the JSON-able `facts`."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    metadata = {_METADATA_KEY: json.dumps(facts, sort_keys=True, separators=(",", ":"))}
    write_bytes(path, save(held, metadata=metadata))


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_checkpoint` wrote: (tensors, facts). Raises UserError when the file is not a checkpoint of ours."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _facts(file)  # noqa: SIM118


def checkpoint_facts(path: str | Path) -> dict[str, Any]:
    """The facts alone, without reading a tensor. Raises UserError as `load_checkpoint` does."""
    with _opened(path) as file:
        return _facts(file)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint of this pipeline ({error}); remove it or name another run") from error


def _facts(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()[_METADATA_KEY])


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names every tensor `prefix.name`, so that several parts share one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`: the tensors under `prefix`, the prefix taken off."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random generators on the CPU and on `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Sets the generators back to what `random_state` saw."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
