"""General entropy coders; they know bytes and nothing of what the bytes mean.

Every coder is a value: a name and a pair of functions. `encode` is a pure function of its input: no threads, no time
stamps. `decode` is told how many bytes must come out, allocates no more than those (and LZMA its window of 8 MiB), and
raises UserError for anything else: data that is damaged, ends early, goes on too long, or would decode to another
length. A recipe holds the coder that it uses.
"""

import lzma
from collections.abc import Callable
from dataclasses import dataclass

import zstandard

from runtime.errors import UserError, nearest

ZSTD_LEVEL = 22
ZSTD_MAX_WINDOW = 2**27
# A zstd block takes at least four bytes and decodes to at most 128 KiB, so no honest frame expands further than this.
ZSTD_MAX_EXPANSION = 2**15

# No container of its own: the artifact has lengths and a hash already. The dictionary bounds the memory of both sides.
LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**23, "lc": 0, "pb": 0}]


@dataclass(frozen=True, repr=False)
class Coder:
    """One coder: its two halves; `decode(data, size)` raises UserError when `data` is not `size` bytes encoded.

    Its text is its name: functions have addresses, and fingerprints are made of the text of a recipe.

    >>> LZMA
    lzma
    """

    name: str
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes | memoryview, int], bytes]

    @staticmethod
    def from_name(name: str) -> "Coder":
        """What `--pack.coder lzma` means on the command line.

        >>> Coder.from_name("zstd")
        Traceback (most recent call last):
        runtime.errors.UserError: unknown coder 'zstd'; nearest: zstd22
        """
        known = {coder.name: coder for coder in (ZSTD22, LZMA, RAW)}
        if name not in known:
            raise UserError(f"unknown coder {name[:40]!r}; {nearest(name[:40], known)}")
        return known[name]

    def __repr__(self) -> str:
        return self.name


def encode(data: bytes, coder: Coder) -> bytes:
    """The data in its coded form: the same bytes for the same data, always.

    >>> len(encode(bytes(100_000), ZSTD22)), encode(b"as it is", RAW)
    (21, b'as it is')
    """
    # Nothing costs nothing; and zstd does not look beyond the header of a frame that declares no content.
    return coder.encode(data) if data else b""


def decode(
    data: bytes | memoryview,
    coder: Coder,
    size: int,  # bytes that must come out
) -> bytes:
    """What `encode` was given. Raises UserError for data that do not decode to `size` bytes.

    >>> decode(encode(b"one two one two", LZMA), LZMA, 15)
    b'one two one two'
    """
    if size == 0 and len(data) > 0:
        raise wrong_size(coder.name, 0, f"{len(data)} encoded")
    return coder.decode(data, size) if size else b""


def wrong_size(coder: str, size: int, got: int | str) -> UserError:
    """The error for data that decode to another number of bytes."""
    return UserError(f"{coder} data must decode to {size} bytes and end there, got {got} bytes")


def _encode_zstd(data: bytes) -> bytes:
    # threads=0 and threads=1 write different bytes, and so do compress() and compressobj(): one way for good.
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=0).compress(data)


def _decode_zstd(data: bytes | memoryview, size: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW)
    try:
        # decompress() ignores max_output_size when the frame declares a size, and believes the frame.
        declared = zstandard.frame_content_size(data)
        if declared != size or size > len(data) * ZSTD_MAX_EXPANSION:
            raise wrong_size("zstd22", size, declared if declared >= 0 else "an unknown number of")
        return decoder.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise UserError(f"zstd22 data must be one whole frame of {size} bytes: {error}") from error


def _encode_lzma(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=LZMA_FILTERS)


def _decode_lzma(data: bytes | memoryview, size: int) -> bytes:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    try:
        # One byte more than is wanted shows a stream that would go on; its end marker must follow at once.
        decoded = decoder.decompress(data, max_length=size + 1)
    except lzma.LZMAError as error:
        raise UserError(f"lzma data must be one whole stream of {size} bytes: {error}") from error
    if len(decoded) != size or not decoder.eof or decoder.unused_data:
        raise wrong_size("lzma", size, len(decoded))
    return decoded


def _decode_raw(data: bytes | memoryview, size: int) -> bytes:
    if len(data) != size:
        raise wrong_size("raw", size, len(data))
    return bytes(data)


ZSTD22 = Coder("zstd22", _encode_zstd, _decode_zstd)
LZMA = Coder("lzma", _encode_lzma, _decode_lzma)
RAW = Coder("raw", bytes, _decode_raw)
