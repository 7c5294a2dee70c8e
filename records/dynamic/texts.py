"""The validation text as the judge reads it: shards, tokenizer and bytes, by code of its own.

What is judged must not judge itself: the shards are read and the bytes are counted here without the code that a record
was made with. Bytes are those of the decoded text, document by document; a space at the start of one is not charged.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor

from data.tokenizer import load_tokenizer
from runtime.errors import UserError

_HEADER_BYTES, _MAGIC, _VERSION = 1024, 20240520, 1
# Documents decoded at once.
_BATCH = 1000


@dataclass(frozen=True)
class JudgedText:
    """The validation split of a data folder: its tokens, and what reads them."""

    folder: Path
    shards: tuple[Path, ...]  # of the validation split, sorted by name
    train_names: tuple[str, ...]  # of the training shards
    tokenizer_path: Path
    tokenizer: SentencePieceProcessor
    tokens: np.ndarray  # uint16 [N + 1]: N targets

    @property
    def num_targets(self) -> int:
        return len(self.tokens) - 1

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_piece_size()

    @property
    def starts(self) -> np.ndarray:
        """Where documents begin: the places of BOS, and the first token in any case."""
        places = np.flatnonzero(self.tokens == self.tokenizer.bos_id())
        return places if len(places) and places[0] == 0 else np.concatenate([[0], places])

    def texts(self, stop: int | None = None) -> list[str]:
        """The decoded documents among the first `stop` tokens, all of them by default."""
        ends = [*self.starts[1:], len(self.tokens)]
        stop = len(self.tokens) if stop is None else stop
        rows = [
            self.tokens[start : min(end, stop)] for start, end in zip(self.starts, ends, strict=True) if start < stop
        ]
        ids = [row[row != self.tokenizer.bos_id()].tolist() for row in rows]
        batches = [ids[place : place + _BATCH] for place in range(0, len(ids), _BATCH)]
        return [text for batch in batches for text in self.tokenizer.decode(batch)]

    def decoded_bytes(self, num_targets: int | None = None) -> int:
        """UTF-8 bytes of the text that the first `num_targets` targets stand for, all of them by default."""
        stop = None if num_targets is None else num_targets + 1
        total = sum(len(text.encode()) - text.startswith(" ") for text in self.texts(stop))
        if self.tokens[0] == self.tokenizer.bos_id():
            return total
        # The first token is context and no target.
        first = self.tokenizer.decode([int(self.tokens[0])])
        return total - len(first.encode()) + first.startswith(" ")


def open_judged_text(folder: Path, tokenizer_path: Path | None = None) -> JudgedText:
    """The validation split in `folder`. Raises UserError without shards, tokenizer, or with a token beyond it."""
    shards = tuple(sorted(folder.glob("*_val_[0-9]*.bin"))) if folder.is_dir() else ()
    # `x_val_bytes_000000.bin` is a side-car; its name does not match.
    if not shards:
        raise UserError(f"--data must be a folder with validation shards (*_val_000000.bin), got {folder}")
    path = tokenizer_path or _find_tokenizer_of(folder)
    tokenizer = load_tokenizer(path)
    tokens = np.concatenate([_shard_tokens(shard) for shard in shards])
    if len(tokens) < 2 or int(tokens.max()) >= tokenizer.get_piece_size():
        raise UserError(
            f"the validation split must hold 2 tokens or more, all below the tokenizer's {tokenizer.get_piece_size()}, "
            f"got {len(tokens)} up to {int(tokens.max())} in {folder}"
        )
    train = tuple(sorted(shard.name for shard in folder.glob("*_train_[0-9]*.bin")))
    return JudgedText(folder, shards, train, path, tokenizer, tokens)


def shard_bytes(tokens: np.ndarray) -> bytes:
    """A shard of these tokens, as the competition has them."""
    header = np.zeros(_HEADER_BYTES // 4, dtype="<i4")
    header[:3] = _MAGIC, _VERSION, len(tokens)
    return header.tobytes() + tokens.astype("<u2").tobytes()


def _shard_tokens(path: Path) -> np.ndarray:
    data = path.read_bytes()
    header = np.frombuffer(data[:_HEADER_BYTES], dtype="<i4") if len(data) >= _HEADER_BYTES else [0, 0, 0]
    if (header[0], header[1]) != (_MAGIC, _VERSION) or len(data) != _HEADER_BYTES + 2 * int(header[2]):
        raise UserError(f"{path} must be a shard: header, then the tokens that it tells, got {len(data)} bytes")
    return np.frombuffer(data, dtype="<u2", offset=_HEADER_BYTES)


def _find_tokenizer_of(folder: Path) -> Path:
    """Beside the shards, as our builds have it, or where the published data sets keep theirs."""
    num_pieces = folder.name.rpartition("_sp")[2]
    published = folder.resolve().parent.parent / "tokenizers" / f"fineweb_{num_pieces}_bpe.model"
    places = [folder / "tokenizer.model", published]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"the data folder {folder} has no tokenizer.model; --tokenizer names another place")
    return path
