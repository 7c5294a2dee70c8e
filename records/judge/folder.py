"""A stranger's record folder, read once and safely: bounded, without following links, whatever lies in it."""

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import UserError

MAX_FILES = 2_000
MAX_DEPTH = 6
# A log holds the source of its script and thousands of steps: what is beyond is cut out of its middle.
MAX_TEXT_BYTES = 8_000_000
# Small files of any kind are read too: a script may hold its code in one.
MAX_OTHER_BYTES = 256_000
_TEXT = re.compile(r"\.(py|json|jsonl|log|txt|md|toml|sh|c|cc|cpp|cu|h|ya?ml|cfg|ini|patch|ipynb)$", re.IGNORECASE)
_NO_PART = re.compile(r"^(\.|__pycache__$)")


@dataclass(frozen=True)
class RecordFile:
    """A file of the folder: its size on disk, and its bytes where they may be text."""

    name: str  # relative, with slashes
    size: int  # bytes
    data: bytes | None = None
    problem: str = ""  # why there are no bytes

    @property
    def text(self) -> str:
        """The contents as text, whatever bytes they hold; no byte order mark, one kind of line end."""
        return (self.data or b"").decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class RecordFolder:
    """Name and files of a record; `parent` is the folder above it, which names the track."""

    name: str
    parent: str
    files: dict[str, RecordFile] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def matching(self, pattern: str) -> list[RecordFile]:
        """The files whose relative name matches the regular expression anywhere, case ignored, in order of name."""
        return [file for name, file in sorted(self.files.items()) if re.search(pattern, name, re.IGNORECASE)]


def folder_of(files: dict[str, bytes], name: str = "2026-01-01_Name", parent: str = "") -> RecordFolder:
    """A record folder out of memory."""
    kept = {path: RecordFile(path, len(data), bounded(data)) for path, data in files.items()}
    return RecordFolder(name, parent, kept)


def read_folder(path: Path) -> RecordFolder:
    """The record folder at `path`. Raises UserError when there is no folder or it cannot be listed."""
    try:
        place = path.resolve()
        os.listdir(place)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UserError(f"a record is a folder: {path} cannot be read: {reason}") from error
    files: dict[str, RecordFile] = {}
    problems: list[str] = []
    _walk(place, "", files, problems)
    return RecordFolder(_shown(place.name), _shown(place.parent.name), files, tuple(problems))


def bounded(data: bytes, limit: int = MAX_TEXT_BYTES) -> bytes:
    """`data`, or its head and tail where it is longer than `limit`.

    >>> bounded(b"abcdefgh", 4)
    b'ab\\ngh'
    """
    return data if len(data) <= limit else data[: limit // 2] + b"\n" + data[-(limit // 2) :]


def _walk(place: Path, prefix: str, files: dict[str, RecordFile], problems: list[str]) -> None:
    """Fills `files` with what lies under `place`; hidden files and Python's caches are no part of a record."""
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"{prefix or '.'}: {error.strerror}")
        return
    for entry in entries:
        name = prefix + _shown(entry.name)
        if _NO_PART.match(entry.name):
            continue
        if len(files) >= MAX_FILES:
            problems[:] = [*problems[:20], f"more than {MAX_FILES} files; the rest was not read"]
            return
        if entry.is_dir(follow_symlinks=False):
            deep = f"folders inside each other more than {MAX_DEPTH} deep; the rest was not read"
            if name.count("/") < MAX_DEPTH:
                _walk(Path(entry.path), f"{name}/", files, problems)
            elif deep not in problems:
                problems.append(deep)
        else:
            files[name] = _read(entry, name)


def _read(entry: os.DirEntry, name: str) -> RecordFile:
    try:
        facts = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(facts.st_mode):
            return RecordFile(name, 0, problem="a link, which is not followed")
        if not stat.S_ISREG(facts.st_mode):
            return RecordFile(name, 0, problem="neither a file nor a folder")
        wanted = _TEXT.search(name) or facts.st_size <= MAX_OTHER_BYTES
        return RecordFile(name, facts.st_size, _head_and_tail(entry.path, facts.st_size) if wanted else None)
    except OSError as error:
        return RecordFile(name, 0, problem=error.strerror or "unreadable")


def _head_and_tail(path: str, size: int) -> bytes:
    half = MAX_TEXT_BYTES // 2
    with open(path, "rb") as file:
        if size <= MAX_TEXT_BYTES:
            return file.read(MAX_TEXT_BYTES)
        head = file.read(half)
        file.seek(size - half)
        return head + b"\n" + file.read(half)


def _shown(name: str) -> str:
    """A file name that can be printed, whatever bytes it was made of."""
    return os.fsencode(name).decode("utf-8", errors="replace")
