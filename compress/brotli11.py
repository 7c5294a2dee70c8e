"""Brotli at its highest quality as a coder: kept to be compared with; no recipe packs with it.

Alakuijala, Szabadka, "Brotli Compressed Data Format", RFC 7932, 2016.
"""

import brotli

from compress.coder import Coder, wrong_size
from runtime.errors import UserError


def _encode_brotli(data: bytes) -> bytes:
    return brotli.compress(data, quality=11, lgwin=24)


def _decode_brotli(data: bytes | memoryview, size: int) -> bytes:
    decoder = brotli.Decompressor()
    try:
        # The limit is kept to within one block of output, 32 KiB or as much again as there was.
        decoded = decoder.process(bytes(data), output_buffer_limit=size + 1)
    except brotli.error as error:
        raise UserError(f"brotli11 data must be one whole stream of {size} bytes: {error}") from error
    if len(decoded) != size or not decoder.is_finished():
        raise wrong_size("brotli11", size, len(decoded))
    return decoded


BROTLI11 = Coder("brotli11", _encode_brotli, _decode_brotli)
