"""A folder that is whole or not there: built beside its place under a temporary name, synced, then renamed."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from runtime.files import unwritable


def write_folder(
    place: Path,
    fill: Callable[[Path], None],  # writes the files, each synced, into the empty folder that it is given
) -> Path:
    """Makes the folder `place`, or place-2, place-3 ... when that is taken, and returns its path.

    Raises UserError when it cannot be written, and whatever `fill` raises; either way nothing is left behind.
    """
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    # A killed process of the same number may have left it.
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for folder in [temporary, *filter(Path.is_dir, temporary.rglob("*"))]:
            _sync_names(folder)
        written = _free_name(place)
        os.rename(temporary, written)
        _sync_names(written.parent)
    except OSError as error:
        raise unwritable(place, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


def _free_name(place: Path) -> Path:
    names = itertools.chain([place], (place.with_name(f"{place.name}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _sync_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
