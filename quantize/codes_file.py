"""Codes on disk: one safetensors file between the stages `quantize` and `compress` of a run.

A coded tensor takes two entries, `NAME:integers` and `NAME:scale`; a passed-through one is entered under its own name.
The names of the grids stand in the file's metadata, which has exactly one key: safetensors writes two or more in random
order, and the same codes must give the same bytes.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from quantize.grid import GRIDS, Coded, Codes, Grid
from runtime.errors import UserError, nearest
from runtime.files import write_bytes

METADATA_KEY = "sixteen.codes"


def save_codes(path: str | Path, codes: Codes) -> None:
    """Writes the codes to `path` in one step. Raises UserError for a name with a colon and for an unwritable place."""
    entries: dict[str, Tensor] = {}
    grids: dict[str, str] = {}
    for name, tensor in sorted(codes.items()):
        if ":" in name:
            raise UserError(f"tensor names must not contain a colon, got {name!r}; nearest {name.replace(':', '.')!r}")
        if isinstance(tensor, Coded):
            grids[name] = tensor.grid.name
            entries |= {f"{name}:integers": tensor.integers, f"{name}:scale": tensor.scale}
        else:
            entries[name] = tensor
    metadata = {METADATA_KEY: json.dumps({"grids": grids}, sort_keys=True, separators=(",", ":"))}
    contiguous = {name: tensor.detach().contiguous() for name, tensor in entries.items()}
    write_bytes(path, safetensors.torch.save(contiguous, metadata))


def load_codes(
    path: str | Path,
    grids: Iterable[Grid] = (),  # those of the plan, where they are none of `quantize.grid`
) -> Codes:
    """The codes that `save_codes` wrote. Raises UserError for a file that is missing, damaged or something else."""
    known = GRIDS | {grid.name: grid for grid in grids}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stored = _grids(path, file.metadata(), known)
            names = file.keys()
            entries = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise UserError(f"codes cannot be read: {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise UserError(f"codes must be a safetensors file written by quantize: {path}: {error}") from error
    coded = {name: _take_coded(path, name, grid, entries) for name, grid in stored.items()}
    for name, tensor in entries.items():
        if tensor.dtype not in (torch.float16, torch.float32):
            raise UserError(f"a tensor without a grid must be fp16 or fp32, {name} is {tensor.dtype}: {path}")
    return {name: coded[name] if name in coded else entries[name] for name in sorted(coded | entries)}


def _grids(path: str | Path, metadata: dict[str, str] | None, known: Mapping[str, Grid]) -> dict[str, Grid]:
    """The grid of every coded tensor, out of the file's metadata."""
    try:
        named = {name: str(grid) for name, grid in json.loads((metadata or {})[METADATA_KEY])["grids"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"codes must carry the metadata {METADATA_KEY!r}: {path} is some other file") from error
    for grid in named.values():
        if grid not in known:
            raise UserError(f"unknown grid {grid!r} in {path}; {nearest(grid, known)}")
    return {name: known[grid] for name, grid in named.items()}


def _take_coded(path: str | Path, name: str, grid: Grid, entries: dict[str, Tensor]) -> Coded:
    """Takes the two entries of a coded tensor out of `entries`."""
    try:
        return Coded(entries.pop(f"{name}:integers"), entries.pop(f"{name}:scale"), grid)
    except KeyError as error:
        raise UserError(f"a coded tensor must have integers and a scale: {path} has no {error.args[0]}") from error
