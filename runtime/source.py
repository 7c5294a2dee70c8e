"""The code of a run: one file, which is counted, hashed and shipped as it lies."""

from pathlib import Path

from runtime.files import sha256_of

CODE_FILE = "train_gpt.py"
# The same code for people, beside the counted file and not counted.
READABLE_FILE = "train_gpt_readable.py"


def repository_root() -> Path:
    """The folder that holds train_gpt.py."""
    return Path(__file__).resolve().parent.parent


def source_sizes(folder: Path) -> dict[str, int]:
    """The bytes of the counted file in `folder`, by its name, as it lies on disk."""
    return {CODE_FILE: (folder / CODE_FILE).stat().st_size}


def source_hash(folder: Path) -> str:
    """SHA-256 of the counted file in `folder`: what the log's header shows and sha256sum prints."""
    return sha256_of(folder / CODE_FILE)
