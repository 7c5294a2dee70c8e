"""General entropy coders behind two functions; they know bytes and nothing of what the bytes mean.

Every coder is a pair in one place. `encode` is a pure function of its input: no threads, no time stamps. `decode` is
told how many bytes must come out, allocates no more than those (and LZMA its window of 8 MiB), and raises UserError
for anything else: data that is damaged, ends early, goes on too long, or would decode to another length.
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


@dataclass(frozen=True)
class Coder:
    """One coder: its two halves; `decode(data, size)` raises UserError when `data` is not `size` bytes encoded."""

    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes | memoryview, int], bytes]


def encode(data: bytes, coder: str) -> bytes:
    """The data in its coded form: the same bytes for the same data, always. Raises UserError for an unknown coder.

    >>> len(encode(bytes(100_000), "zstd22")), encode(b"as it is", "raw")
    (21, b'as it is')
    """
    pair = coder_named(coder)
    # Nothing costs nothing; and zstd does not look beyond the header of a frame that declares no content.
    return pair.encode(data) if data else b""


def decode(
    data: bytes | memoryview,
    coder: str,
    size: int,  # bytes that must come out
) -> bytes:
    """What `encode` was given. Raises UserError for an unknown coder and for data that do not decode to `size` bytes.

    >>> decode(encode(b"one two one two", "lzma"), "lzma", 15)
    b'one two one two'
    """
    pair = coder_named(coder)
    if size == 0 and len(data) > 0:
        raise _wrong_size(coder, 0, f"{len(data)} encoded")
    return pair.decode(data, size) if size else b""


def coder_named(name: str) -> Coder:
    """The coder of that name.

    >>> coder_named("zstd")
    Traceback (most recent call last):
    runtime.errors.UserError: unknown coder 'zstd'; nearest: zstd22
    """
    if name not in CODERS:
        raise UserError(f"unknown coder {name[:40]!r}; {nearest(name[:40], CODERS)}")
    return CODERS[name]


def _encode_zstd(data: bytes) -> bytes:
    # threads=0 and threads=1 write different bytes, and so do compress() and compressobj(): one way for good.
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=0).compress(data)


def _decode_zstd(data: bytes | memoryview, size: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW)
    try:
        # decompress() ignores max_output_size when the frame declares a size, and believes the frame.
        declared = zstandard.frame_content_size(data)
        if declared != size or size > len(data) * ZSTD_MAX_EXPANSION:
            raise _wrong_size("zstd22", size, declared if declared >= 0 else "an unknown number of")
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
        raise _wrong_size("lzma", size, len(decoded))
    return decoded


def _decode_raw(data: bytes | memoryview, size: int) -> bytes:
    if len(data) != size:
        raise _wrong_size("raw", size, len(data))
    return bytes(data)


def _wrong_size(coder: str, size: int, got: int | str) -> UserError:
    return UserError(f"{coder} data must decode to {size} bytes and end there, got {got} bytes")


CODERS = {
    "zstd22": Coder(_encode_zstd, _decode_zstd),
    "lzma": Coder(_encode_lzma, _decode_lzma),
    "raw": Coder(bytes, _decode_raw),
}
