"""Documents to a data set: split, tokenizer, shards, manifest; whole or not at all.

    documents -> train | val, no text in both, hash order -> tokenizer (train only) -> shards -> manifest

Everything is written into a hidden sibling of the target, which takes the target's name at the end. The documents'
texts are held in memory, their token ids a shard at a time.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
from sentencepiece import SentencePieceProcessor

from data.bytecount import ByteTable
from data.corpus import Document
from data.encode import ShardWriter, encode_documents
from data.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    BuildOptions,
    DocumentEntry,
    Manifest,
    SplitEntry,
    SplitTotals,
    TokenizerEntry,
    read_manifest,
    write_manifest,
)
from data.shards import open_shard
from data.splits import SplitDocuments, split_documents, text_hash
from data.tokenizer import check_tokenizer_options, train_tokenizer
from runtime.errors import UserError
from runtime.files import sha256_of, unwritable

TOKENIZER_NAME = "tokenizer.model"


@dataclass(frozen=True)
class BuildResult:
    """What stands in the folder now; `fresh` is False when it already stood there."""

    folder: Path
    manifest: Manifest
    fresh: bool


def build_dataset(documents: Iterable[Document], out: str | Path, options: BuildOptions) -> BuildResult:
    """Makes the data set `out` from the documents, or finds that it is there with equal options and documents.

    Raises UserError for options that no data set can have, when `out` holds anything else, and when it cannot be
    written; `out` is then as it was.
    """
    out = Path(out)
    check_tokenizer_options(options.vocab_size, options.normalisation)
    if not options.corpus or "/" in options.corpus:
        raise UserError(f"a corpus needs a name that can stand in a file name, got {options.corpus!r}")
    if options.shard_tokens < 1:
        raise UserError(f"a shard holds at least 1 token, got {options.shard_tokens}; nearest 1")
    present = _present_manifest(out, options)
    splits = split_documents(documents, options.val_one_in)
    if present is not None:
        _check_present(out, present, splits)
        return BuildResult(out, present, fresh=False)
    with _folder_taking_the_name(out) as folder:
        manifest = _write_all(folder, splits, options)
    return BuildResult(out, manifest, fresh=True)


def _write_all(folder: Path, splits: SplitDocuments, options: BuildOptions) -> Manifest:
    path = folder / TOKENIZER_NAME
    texts = (document.text for document in splits.train)
    tokenizer = train_tokenizer(texts, path, vocab_size=options.vocab_size, normalisation=options.normalisation)
    manifest = Manifest(
        version=MANIFEST_VERSION,
        options=options,
        tokenizer=TokenizerEntry(
            name=TOKENIZER_NAME,
            sha256=sha256_of(path),
            vocab_size=options.vocab_size,
            normalisation=options.normalisation,
            sentencepiece=sentencepiece.__version__,
        ),
        train=_write_split(folder, "train", splits.train, tokenizer, options),
        val=_write_split(folder, "val", splits.val, tokenizer, options),
        dropped=splits.dropped,
    )
    write_manifest(folder, manifest)
    return manifest


def _write_split(
    folder: Path,
    split: str,
    documents: list[Document],
    tokenizer: SentencePieceProcessor,
    options: BuildOptions,
) -> SplitEntry:
    table = ByteTable.from_tokenizer(tokenizer, options.vocab_size)
    shards = ShardWriter(folder, options.corpus, split, options.shard_tokens)
    entries: list[DocumentEntry] = []
    charged_bytes = 0
    for encoded in encode_documents(documents, tokenizer, table):
        shards.add(encoded.ids)
        entries.append(encoded.entry)
        charged_bytes += encoded.charged_bytes
    return SplitEntry(totals=totals_of(entries, charged_bytes), shards=shards.close(), documents=entries)


def totals_of(documents: list[DocumentEntry], charged_bytes: int) -> SplitTotals:
    """The sums over the documents of one split."""
    return SplitTotals(
        documents=len(documents),
        tokens=sum(document.tokens for document in documents),
        raw_bytes=sum(document.raw_bytes for document in documents),
        decoded_bytes=sum(document.decoded_bytes for document in documents),
        charged_bytes=charged_bytes,
        changed_documents=sum(document.decoded_sha256 is not None for document in documents),
    )


def _present_manifest(out: Path, options: BuildOptions) -> Manifest | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST_NAME).is_file():
        raise UserError(f"--out must be new, empty or a data set of these options, got {out}, which is something else")
    present = read_manifest(out)
    for name in BuildOptions.__struct_fields__:
        there, wanted = getattr(present.options, name), getattr(options, name)
        if there != wanted:
            raise UserError(
                f"{out} holds a data set with {name} {there!r}, asked for {wanted!r}; remove it or choose another --out"
            )
    return present


def _check_present(out: Path, present: Manifest, splits: SplitDocuments) -> None:
    for (split, entry), documents in zip(present.splits(), (splits.train, splits.val), strict=True):
        if [(old.id, old.sha256) for old in entry.documents] != [(new.id, text_hash(new.text)) for new in documents]:
            raise UserError(f"{out} was made from other {split} documents; remove it or choose another --out")
        for shard in entry.shards:
            if len(open_shard(out / shard.name)) != shard.tokens:
                raise UserError(f"{out / shard.name} is not the shard of its manifest; remove {out} and build again")
    tokenizer = out / present.tokenizer.name
    if not tokenizer.is_file() or sha256_of(tokenizer) != present.tokenizer.sha256:
        raise UserError(f"{tokenizer} is not the tokenizer of its manifest; remove {out} and build again")


@contextmanager
def _folder_taking_the_name(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its name when the block ends well, and is gone otherwise."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.building")
    try:
        _remove_abandoned(out)
        folder.mkdir(parents=True)
        yield folder
        os.rename(folder, out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(out: Path) -> None:
    # A build that was killed outright could not clean up after itself.
    for folder in out.parent.iterdir() if out.parent.is_dir() else ():
        name, _, process = folder.name.removesuffix(".building").rpartition(".")
        if folder.name.endswith(".building") and name == f".{out.name}" and not _is_running(process):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
