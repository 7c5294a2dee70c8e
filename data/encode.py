"""Documents to token ids and back, in batches, and the facts that the manifest keeps of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor

from data.bytecount import ByteTable
from data.corpus import Document
from data.manifest import DocumentEntry, ShardEntry
from data.shards import write_shard
from data.splits import folded_hash, text_hash
from data.tokenizer import BOS_ID
from runtime.files import sha256_of

# Characters a call of SentencePiece: enough to keep its threads busy, little enough that its lists of ids stay small.
ENCODER_BATCH = 2_000_000


@dataclass(frozen=True)
class EncodedDocument:
    """A document's token ids, uint16 with BOS in front, and what the manifest says of it."""

    entry: DocumentEntry
    ids: np.ndarray
    charged_bytes: int


def encode_documents(
    documents: list[Document], tokenizer: SentencePieceProcessor, table: ByteTable
) -> Iterator[EncodedDocument]:
    """Encodes the documents in order, each with BOS in front and nothing behind, and decodes them again to compare."""
    for batch in _document_batches(documents):
        encoded = tokenizer.encode([document.text for document in batch])
        for document, ids, decoded in zip(batch, encoded, tokenizer.decode(encoded), strict=True):
            row = np.array([BOS_ID, *ids], dtype=np.uint16)
            entry = DocumentEntry(
                id=document.id,
                sha256=text_hash(document.text),
                folded_sha256=folded_hash(document.text),
                tokens=len(row),
                raw_bytes=len(document.text.encode()),
                decoded_bytes=len(decoded.encode()),
                decoded_sha256=None if decoded == document.text else text_hash(decoded),
            )
            yield EncodedDocument(entry, row, charge_document(row, table))


def charge_document(ids: np.ndarray, table: ByteTable) -> int:
    """The bytes that scoring charges for a document's tokens (BOS first, itself never a target)."""
    row = torch.from_numpy(ids.astype(np.int64))
    return int(table.count(row[1:], row[:-1]).sum())


class ShardWriter:
    """Cuts a stream of token ids into shards of at most `limit` tokens; documents may cross from one into the next."""

    def __init__(self, folder: Path, corpus: str, split: str, limit: int) -> None:
        self.folder, self.prefix, self.limit = folder, f"{corpus}_{split}", limit
        self.pending: list[np.ndarray] = []
        self.num_pending = 0
        self.entries: list[ShardEntry] = []

    def add(self, ids: np.ndarray) -> None:
        """Appends uint16 ids to the stream. Raises UserError as `write_shard` does."""
        self.pending.append(ids)
        self.num_pending += len(ids)
        while self.num_pending >= self.limit:
            self._write(self.limit)

    def close(self) -> list[ShardEntry]:
        """Writes what is left and returns all shards in order."""
        if self.num_pending:
            self._write(self.num_pending)
        return self.entries

    def _write(self, count: int) -> None:
        ids = np.concatenate(self.pending)
        path = self.folder / f"{self.prefix}_{len(self.entries):06d}.bin"
        write_shard(path, ids[:count])
        self.entries.append(ShardEntry(path.name, count, sha256_of(path)))
        self.pending, self.num_pending = [ids[count:]], len(ids) - count


def _document_batches(documents: list[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= ENCODER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
