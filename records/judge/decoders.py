"""The decoders that packed scripts use, each with a bound: LZMA, zlib, gzip, bz2, brotli, and the bases."""

import base64
import binascii
import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

try:
    import brotli
except ImportError:
    brotli = None

MAX_BYTES = 8_000_000
MAX_DICTIONARY = 1 << 28


def unpacked(data: bytes | str, kind: str, **settings: Any) -> bytes:
    """`data` decompressed, at most MAX_BYTES of it. Raises what the decompressor raises, ValueError when longer."""
    data = data.encode("latin-1") if isinstance(data, str) else data
    if kind == "lzma":
        _check_dictionaries(settings.get("filters"))
        memory = {} if settings.get("format") == lzma.FORMAT_RAW else {"memlimit": MAX_DICTIONARY}
        machine = lzma.LZMADecompressor(**{**settings, **memory})
    elif kind == "bz2":
        machine = bz2.BZ2Decompressor()
    else:
        machine = zlib.decompressobj(settings.get("wbits", 31 if kind == "gzip" else 15))
    result = machine.decompress(data, MAX_BYTES)
    if len(result) >= MAX_BYTES:
        raise ValueError(f"unpacks to more than {MAX_BYTES} bytes")
    if not machine.eof:
        raise ValueError("the payload is cut off")
    return result


def _check_dictionaries(filters: Any) -> None:
    for entry in filters or ():
        if not isinstance(entry, dict) or entry.get("dict_size", 0) > MAX_DICTIONARY:
            raise ValueError("a filter that asks for too much memory")


def _brotli(data: bytes) -> bytes:
    if brotli is None:
        raise ValueError("brotli is not installed here: python -m pip install brotli")
    machine, result = brotli.Decompressor(), bytearray()
    try:
        # A few bytes at a time: this decompressor has no bound of its own.
        for start in range(0, len(data), 64):
            result += machine.process(data[start : start + 64])
            if len(result) > MAX_BYTES:
                raise ValueError(f"unpacks to more than {MAX_BYTES} bytes")
    except brotli.error as error:
        raise ValueError(str(error)) from error
    return bytes(result)


def _text(data: Any, *_: str) -> str:
    return data.decode("utf-8") if isinstance(data, bytes) else str(data)


def _bytes(data: Any, *_: str) -> bytes:
    if isinstance(data, int):
        raise ValueError("bytes of a number")
    return data.encode("utf-8") if isinstance(data, str) else bytes(data)


DECODERS: dict[str, Callable] = {
    **{f"base64.{name}": getattr(base64, name) for name in dir(base64) if name.endswith("decode") and name != "decode"},
    "base64.decodebytes": base64.decodebytes,
    "binascii.unhexlify": binascii.unhexlify,
    "binascii.a2b_base64": binascii.a2b_base64,
    "bytes.fromhex": bytes.fromhex,
    "lzma.decompress": lambda data, format=lzma.FORMAT_AUTO, memlimit=None, filters=None: unpacked(
        data, "lzma", format=format, **({"filters": filters} if filters else {})
    ),
    "zlib.decompress": lambda data, wbits=15, bufsize=0: unpacked(data, "zlib", wbits=wbits),
    "bz2.decompress": lambda data: unpacked(data, "bz2"),
    "gzip.decompress": lambda data: unpacked(data, "gzip"),
    "brotli.decompress": _brotli,
    "compile": lambda source, *_, **__: source,
    "str": _text,
    "bytes": _bytes,
}
