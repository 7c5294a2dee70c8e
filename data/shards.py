"""The competition's token shards: a header of 256 little-endian int32, then the token ids as little-endian uint16.

    header[0] = 20240520 (magic)   header[1] = 1 (version)   header[2] = number of tokens   the rest 0
    size of the file = 1024 + 2 x number of tokens, exactly [1]

[1] openai/parameter-golf, the organisers' train_gpt.py.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.errors import UserError
from runtime.files import atomic_writer

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
SHARD_HEADER_BYTES = 1024
# Anchored at the number: `fineweb_val_bytes_000000.bin` is the byte side-car of a shard and no shard.
SHARD_NAME = re.compile(r".+_(train|val)_(\d+)\.bin")


def write_shard(path: str | Path, tokens: np.ndarray | Sequence[int]) -> None:
    """Writes the token ids (1-D, each 0..65535) as one shard, in one step.

    Raises UserError for no token at all, an id that uint16 cannot hold, or a place that cannot be written.
    """
    ids = np.asarray(tokens)
    if ids.ndim != 1 or ids.size == 0:
        raise UserError(f"a shard holds a row of at least 1 token, got shape {ids.shape} for {path}")
    if ids.dtype != np.uint16 and (ids.min() < 0 or ids.max() > 0xFFFF):
        raise UserError(f"a shard holds ids from 0 to 65535, got {ids.min()} to {ids.max()} for {path}")
    header = np.zeros(SHARD_HEADER_BYTES // 4, dtype="<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, ids.size
    with atomic_writer(path) as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(ids, dtype="<u2").data)


def open_shard(path: str | Path) -> np.memmap:
    """The token ids of a shard, memory-mapped and read-only: uint16 [number of tokens].

    Raises UserError when the file is missing, foreign (magic, version) or not of the size that its header says.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            header = file.read(SHARD_HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"the shard cannot be read: {path}: {error.strerror}") from error
    if len(header) < SHARD_HEADER_BYTES:
        raise UserError(f"{path} is no shard: the header takes {SHARD_HEADER_BYTES} bytes, the file has {size}")
    magic, version, num_tokens = (int(number) for number in np.frombuffer(header, dtype="<i4", count=3))
    if (magic, version) != (SHARD_MAGIC, SHARD_VERSION):
        raise UserError(
            f"{path} is no shard: it must start with {SHARD_MAGIC} and version {SHARD_VERSION}, "
            f"got {magic} and {version}"
        )
    expected = SHARD_HEADER_BYTES + 2 * num_tokens
    if num_tokens < 1 or size != expected:
        fault = "holds no token" if num_tokens < 1 else "is truncated" if size < expected else "is too long"
        raise UserError(f"{path} {fault}: {num_tokens} tokens take 1024 + 2 x {num_tokens} bytes, the file has {size}")
    return np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(num_tokens,))


def find_shards(folder: str | Path, split: str) -> list[Path]:
    """The shards of `split` ("train" or "val") in `folder`, sorted by name. Raises UserError when there are none."""
    shards = [path for path in Path(folder).glob("*.bin") if split_in_name(path) == split]
    if not shards:
        raise UserError(f"a data set needs {split} shards (*_{split}_000000.bin), found none in {folder}")
    return sorted(shards)


def split_in_name(path: Path) -> str | None:
    """Which split a shard's name says it belongs to; None for a file that is no shard."""
    match = SHARD_NAME.fullmatch(path.name)
    return match.group(1) if match else None


def read_tokens(paths: Sequence[str | Path], vocab_size: int) -> Tensor:
    """All tokens of the shards in the order given, int64 [number of tokens]; for validation streams.

    Raises UserError for a bad shard, and for an id that is not below `vocab_size`, with its file and position.
    """
    shards = [open_shard(path) for path in paths]
    tokens = torch.empty(sum(len(shard) for shard in shards), dtype=torch.int64)
    start = 0
    for path, shard in zip(paths, shards, strict=True):
        check_ids(shard, vocab_size, path)
        tokens[start : start + len(shard)] = torch.from_numpy(shard.astype(np.int64))
        start += len(shard)
    return tokens


def check_ids(
    ids: np.ndarray,  # [number of ids], at least one
    vocab_size: int,
    path: str | Path,
    position: int = 0,  # of ids[0] in the shard
) -> None:
    """Raises UserError when an id of the shard at `path` lies beyond the vocabulary."""
    if int(ids.max()) >= vocab_size:
        first = int((ids >= vocab_size).argmax())
        raise UserError(
            f"token ids must be below the vocabulary of {vocab_size}, got {int(ids[first])} at position "
            f"{position + first} of {path}; are shards and tokenizer from the same data set?"
        )
