"""The code of a run: every source file of ours that was imported, as bytes that can be counted, hashed and shipped."""

import hashlib
import sys
from pathlib import Path

from runtime.files import write_bytes


def repository_root() -> Path:
    """The folder that holds train_gpt.py."""
    return Path(__file__).resolve().parent.parent


def imported_sources() -> dict[str, Path]:
    """Relative path -> file of every module imported so far that lies in the repository, sorted."""
    root = repository_root()
    found = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # torch gives some of its modules relative, invented file names.
        if file and file.endswith(".py") and Path(file).is_absolute():
            path = Path(file).resolve()
            relative = path.relative_to(root) if path.is_relative_to(root) else None
            # A virtual environment inside the repository is not ours.
            if relative and "site-packages" not in relative.parts and relative.parts[0] != "tests":
                found[relative.as_posix()] = path
    return dict(sorted(found.items()))


def copy_sources(destination: Path) -> dict[str, int]:
    """Copies the imported sources under `destination`; returns their sizes by relative path."""
    sizes = {}
    for relative, path in imported_sources().items():
        data = path.read_bytes()
        write_bytes(destination / relative, data)
        sizes[relative] = len(data)
    return sizes


def source_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every Python file under `folder` by relative path, as they lie on disk."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.py"))}


def source_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the Python files under `folder`: what the log's header shows."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
