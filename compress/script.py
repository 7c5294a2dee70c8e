"""Source packed into a script that runs by itself, and back: LZMA, as text, between two fixed pieces of Python.

Latin-1 has a character for every byte, and a string must escape five of them: the payload grows by 2 %, where base85
adds 25 %. It holds no line end, so tools that change line ends do not touch it. Whoever reads the script as text must
decode it as its first line says, as Python does.

The script hands its source to `linecache` under the name of its code: `inspect` then finds the text of every function,
which Triton compiles kernels from, and tracebacks show it.
"""

import ast
import lzma
import re
from itertools import product

from runtime.errors import UserError

HEAD = b'#coding:latin1\nimport linecache as l,lzma\ns=lzma.decompress("'
TAIL = (
    b'".encode("latin1")).decode()\n'
    b'n=__file__+":unpacked"\n'
    b"l.cache[n]=len(s),None,s.splitlines(1),n\n"
    b'exec(compile(s,n,"exec"))\n'
)
# A digit after \0 would belong to it.
ESCAPES = {
    rb"\\": rb"\\\\",
    rb'"': rb"\\" + b'"',
    rb"\n": rb"\\n",
    rb"\r": rb"\\r",
    rb"\0(?![0-7])": rb"\\0",
    rb"\0": rb"\\000",
}


def pack_source(source: str) -> bytes:
    """The script that runs `source`: the same bytes for the same source. `unpack_source` is its inverse.

    >>> unpack_source(pack_source("print(1)"))
    'print(1)'
    """
    data = source.encode("utf-8")
    return HEAD + min((escaped(_lzma(data, *settings)) for settings in _SETTINGS), key=len) + TAIL


def unpack_source(script: bytes) -> str:
    """The source in a script that `pack_source` made. Raises UserError for any other script."""
    try:
        if not (script.startswith(HEAD) and script.endswith(TAIL)):
            raise ValueError("other code stands around the payload")
        payload = ast.literal_eval(f'"{script[len(HEAD) : -len(TAIL)].decode("latin1")}"')
        return lzma.decompress(payload.encode("latin1")).decode("utf-8")
    except (ValueError, SyntaxError, lzma.LZMAError) as error:
        raise UserError(f"a counted file must be as `python -m compress bundle` packs it: {error}") from error


def escaped(data: bytes) -> bytes:
    r"""The inside of a string literal whose characters, as Latin-1, are `data`.

    >>> escaped(b'a\0b\n"')
    b'a\\0b\\n\\"'
    """
    for pattern, escape in ESCAPES.items():
        data = re.sub(pattern, escape, data)
    return data


# Match finder, and the length of a match that is taken at once: which are best is luck, and how many bytes must be
# escaped is too, so all are tried.
_SETTINGS = tuple(product((lzma.MF_BT2, lzma.MF_BT3, lzma.MF_BT4), (28, 36, 56, 128, 192, 273)))


def _lzma(data: bytes, finder: int, nice_length: int) -> bytes:
    """LZMA in its oldest format: no other header is as short and says how to decode what follows."""
    own = {"lc": 3, "lp": 0, "pb": 0, "mf": finder, "nice_len": nice_length, "dict_size": 2**20}
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, **own}]
    return lzma.compress(data, format=lzma.FORMAT_ALONE, filters=filters)
