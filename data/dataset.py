"""A data set on disk as training and scoring want it: its shards and its tokenizer, checked against a recipe."""

import re
from dataclasses import dataclass
from pathlib import Path

from data.shards import find_shards
from data.tokenizer import load_tokenizer
from runtime.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """The files of one data set; every shard path is sorted by name."""

    folder: Path
    train_paths: tuple[Path, ...]
    val_paths: tuple[Path, ...]
    tokenizer_path: Path
    vocab_size: int


def open_dataset(
    folder: str | Path,
    vocab_size: int,  # the recipe's
    tokenizer_path: str | Path | None = None,  # None: where a build or the published layout keeps it
) -> Dataset:
    """The data set in `folder`, checked against the recipe's vocabulary; shards are opened later, by who reads them.

    Raises UserError for a missing folder (with the command that makes it), no shards, no tokenizer, or a tokenizer
    of another vocabulary.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the data set {folder} does not exist; make it: {command_for(folder, vocab_size)}")
    try:
        train, val = find_shards(folder, "train"), find_shards(folder, "val")
    except UserError as error:
        raise UserError(f"{error}; make the data set: {command_for(folder, vocab_size)}") from error
    path = Path(tokenizer_path) if tokenizer_path else _find_tokenizer(folder, vocab_size)
    num_pieces = load_tokenizer(path).get_piece_size()
    if num_pieces != vocab_size:
        raise UserError(
            f"the recipe's vocabulary must be the tokenizer's, got {vocab_size} and {num_pieces} ({path}); "
            f"nearest {num_pieces}"
        )
    return Dataset(folder, tuple(train), tuple(val), path, vocab_size)


def command_for(folder: Path, vocab_size: int) -> str:
    """The command that makes the data set `folder`: a download for a published name, else a build."""
    published = re.fullmatch(r"fineweb10B_(\w+)", folder.name)
    if published:
        return f"python -m data download --variant {published.group(1)} --train-shards 10"
    return f"python -m data build --corpus sotu --vocab {vocab_size} --out {folder}"


def tokenizer_places(folder: Path, vocab_size: int) -> list[Path]:
    """Where a tokenizer can lie: beside the shards (our builds), or in ../../tokenizers (as published)."""
    # The folder's own name says its vocabulary better than the recipe does: the mismatch is then named as such.
    variant = re.search(r"_sp(\d+)$", folder.name)
    num_pieces = variant.group(1) if variant else vocab_size
    published = folder.resolve().parent.parent / "tokenizers" / f"fineweb_{num_pieces}_bpe.model"
    return [folder / "tokenizer.model", published]


def _find_tokenizer(folder: Path, vocab_size: int) -> Path:
    places = tokenizer_places(folder, vocab_size)
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"the data set {folder} has no tokenizer; looked for {' and '.join(map(str, places))}")
