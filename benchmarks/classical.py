"""What compressors without a byte budget make of the validation text of the speeches: the scale of the pocket track.

Alone, and primed: size(train + val) - size(train), with a window that reaches back over the whole training text. A
primed compressor so carries the training text with it, 11.7 MB of it, and no entry of a track may.

1. Cleary and Witten 1984; Shkarin 2002 (PPMd, variant H).  2. RFC 8878 (zstd).  3. RFC 7932 (brotli).
"""

import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import brotli
import pyppmd
import zstandard

from benchmarks.row import Row
from data.corpus import sotu_documents
from data.splits import split_documents
from records.markers import between_markers
from records.readme import markdown_table
from runtime.files import read_bytes, write_text
from runtime.source import repository_root

POCKET_README = Path("records/track_pocket/README.md")
SCALE_START, SCALE_END = "<!-- compressors: python -m benchmarks classical -->", "<!-- end of compressors -->"
_WINDOW_LOG = 27  # 128 MiB, of zstd


@dataclass(frozen=True)
class Compressor:
    """`reach` says how far back it sees, or how much its model may hold."""

    name: str
    reach: str
    compress: Callable[[bytes], bytes]


@dataclass(frozen=True)
class ScaleEntry:
    """Bits per byte of the validation text by one compressor."""

    compressor: Compressor
    alone: float
    primed: float


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


def _zstd(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=_WINDOW_LOG)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _brotli(data: bytes) -> bytes:
    return brotli.compress(data, mode=brotli.MODE_TEXT, quality=11, lgwin=24)


def _ppmd(order: int) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        encoder = pyppmd.Ppmd7Encoder(order, 2**30)
        return encoder.encode(data) + encoder.flush()

    return compress


COMPRESSORS = (
    Compressor("xz -9e", "64 MiB window", _xz),
    Compressor("zstd -22 --ultra", f"{2**_WINDOW_LOG // 2**20} MiB window", _zstd),
    Compressor("brotli -11", "16 MiB window", _brotli),
    Compressor("PPMd, order 6", "1 GiB model", _ppmd(6)),
    Compressor("PPMd, order 16", "1 GiB model", _ppmd(16)),
)


def measured(compressor: Compressor, train: bytes, val: bytes) -> ScaleEntry:
    """Both scores of one compressor.

    >>> stored = Compressor("stored", "nothing", bytes)
    >>> measured(stored, b"before", b"text").primed
    8.0
    """
    alone = len(compressor.compress(val))
    primed = len(compressor.compress(train + val)) - len(compressor.compress(train))
    return ScaleEntry(compressor, 8 * alone / len(val), 8 * primed / len(val))


def scale_section(entries: list[ScaleEntry], train_bytes: int, val_bytes: int) -> str:
    """What goes between the markers: the table, and what it can be compared with."""
    rows = [
        [entry.compressor.name, entry.compressor.reach, f"{entry.alone:.4f}", f"{entry.primed:.4f}"]
        for entry in entries
    ]
    return (
        f"Bits per byte of the same {val_bytes:,} bytes of validation text, by programs that get no byte budget: their "
        f'code is not counted, and "primed" ones hold the whole training text ({train_bytes:,} bytes, or '
        f"{train_bytes / 1e6:.1f} times the budget) in their window or model.\n\n"
        + markdown_table(["compressor", "memory", "alone", "primed with the training text"], rows)
    )


def write_scale(path: Path, section: str) -> None:
    """Puts `section` between its markers in the README `path`. Raises UserError where it has none."""
    text = read_bytes(path, "the README of the track").decode("utf-8")
    write_text(path, between_markers(text, SCALE_START, SCALE_END, section))


def classical_rows() -> list[Row]:
    """Two rows a compressor, and the table in the README of the pocket track.

    What can be wrong with a figure that has no goal: text that does not shrink, and training text that does not help.
    """
    splits = split_documents(sotu_documents())
    train, val = (b"".join(document.text.encode() for document in part) for part in (splits.train, splits.val))
    entries = [measured(compressor, train, val) for compressor in COMPRESSORS]
    write_scale(repository_root() / POCKET_README, scale_section(entries, len(train), len(val)))
    rows = []
    for entry in entries:
        name, note = entry.compressor.name, f"{entry.compressor.reach}, {len(val):,} bytes, no byte budget"
        rows.append(Row(f"{name} alone", entry.alone, "bits per byte", ("<=", 8.0), 1, note))
        rows.append(Row(f"{name} primed", entry.primed, "bits per byte", ("<=", entry.alone), 1, note))
    return rows
