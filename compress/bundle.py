"""One recipe as one file: the counted `train_gpt.py`, which needs nothing of the repository, and its readable twin.

    recipes/counted.py, in the recipe's name -> flatten -> the readable twin -> minify -> pack -> the counted file

Both follow from the repository alone: the same source gives the same bytes.
"""

import functools
import hashlib
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from compress.flatten import flatten
from compress.minify import minify_source
from compress.script import pack_source, unpack_source
from runtime.errors import UserError
from runtime.files import read_bytes, write_bytes

# The end of every counted file, and the recipe in whose name it is written.
ENTRY, EXAMPLE = "recipes/counted.py", "demo"
# What turns a readable file into a counted one, as it was when this process began: not what somebody edits meanwhile.
_FILES = ("attributes.py", "minify.py", "script.py", "shake.py", "terse.py")
_MAKERS = [Path(__file__).with_name(name).read_bytes() for name in _FILES]


@dataclass(frozen=True)
class Bundle:
    """A recipe as one file, in both forms."""

    readable: str
    counted: bytes
    files: dict[str, int]  # bytes of the files that it is made of, in its order

    @property
    def stages(self) -> dict[str, int]:
        """Bytes after each stage."""
        return {
            "source": sum(self.files.values()),
            "shaken": len(self.readable.encode("utf-8")),
            "minified": len(unpack_source(self.counted).encode("utf-8")),
            "packed": len(self.counted),
        }


@functools.cache
def bundle_recipe(recipe: str, root: Path) -> Bundle:
    """The bundle of `recipes/<recipe>.py` in the repository `root`.

    Raises UserError for a recipe that is not there and for source that cannot be bundled, with file and line.
    """
    entry = read_bytes(root / ENTRY, "the end of a counted file").decode("utf-8")
    flat, files = flatten(root, ENTRY, re.sub(rf"\b{EXAMPLE}\b", recipe, entry))
    readable = f"{_title(recipe)}\n\n{flat}"
    sizes = {file: len(read_bytes(root / file, "a source file")) for file in files}
    return Bundle(readable, _remembered(readable, root / "compress" / "__pycache__" / f"{recipe}.bundle"), sizes)


def _title(recipe: str) -> str:
    return (
        f'"""Recipe {recipe} of Sixteen as one file: the source of the counted train_gpt.py before it is minified.\n\n'
        f"Made by `python -m compress bundle {recipe}`; every part names the file of the repository that it is from.\n"
        '"""'
    )


def _remembered(readable: str, place: Path) -> bytes:
    """The counted file of a readable one: from `place` if it is there and of the same making, else made anew."""
    versions = f"{platform.python_version()} {version('python-minifier')}"
    key = hashlib.sha256(b"\0".join([readable.encode("utf-8"), versions.encode("ascii"), *_MAKERS])).digest()
    if place.exists() and (held := place.read_bytes()).startswith(key):
        return held.removeprefix(key)
    counted = pack_source(minify_source(readable))
    # A repository that cannot be written to does without.
    with suppress(UserError):
        write_bytes(place, key + counted)
    return counted
