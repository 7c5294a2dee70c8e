"""Files that are either the old one or the new one, never half of each: temporary name, fsync, rename."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from runtime.errors import UserError


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """Yields a binary file that takes the name `path` only once it is whole and on disk.

    Raises UserError when the disk is full or the place cannot be written; an earlier file of that name stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        _remove_if_there(temporary)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step. Raises UserError as `atomic_writer` does."""
    with atomic_writer(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8 in one step. Raises UserError as `atomic_writer` does."""
    write_bytes(path, text.encode("utf-8"))


def read_bytes(path: str | Path, what: str) -> bytes:
    """The bytes of `path`; `what` says in the error what the file should have been ("the packed model").

    Raises UserError when it is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{what} cannot be read: {path}: {error.strerror}") from error


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unwritable(path: str | Path, error: OSError) -> UserError:
    """The message for a place that cannot be written: a full disk, a missing permission, a folder in the way."""
    return UserError(f"cannot write {path}: {error.strerror or error}; what was there before is untouched")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_there(path: Path) -> None:
    # A folder without write permission never held the temporary file.
    with suppress(OSError):
        path.unlink(missing_ok=True)
