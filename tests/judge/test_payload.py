"""Packed scripts: every wrapper of the competition is unwrapped, nothing is run, nothing grows without end."""

import base64
import bz2
import gzip
import io
import lzma
import sys
import zlib

import pytest

from records.judge import decoders
from records.judge.folder import folder_of
from records.judge.judge import judge_folder
from records.judge.payload import unwrap
from records.judge.source import without_format_strings

CODE = "import os\nimport math\n\n\ndef marker_function(x):\n    return math.sqrt(x)\n"
RAW = [{"id": lzma.FILTER_LZMA2, "preset": 9}]


def no_files(name: str) -> None:
    return None


def texts(script: str, files=no_files) -> list[str]:
    return [unit.text for unit in unwrap(script.encode(), "train_gpt.py", files).units]


def b85(data: bytes) -> str:
    return base64.b85encode(data).decode()


XZ, ZLIB, RAW_XZ = (
    lzma.compress(CODE.encode()),
    zlib.compress(CODE.encode()),
    lzma.compress(CODE.encode(), lzma.FORMAT_RAW, filters=RAW),
)
WRAPPERS = {
    "lzma": f'import lzma,base64\nexec(lzma.decompress(base64.b85decode("{b85(XZ)}")))',
    "as": f'import lzma as L,base64 as B\nexec(L.decompress(B.b85decode("{b85(XZ)}")))',
    "raw": f'import lzma as L,base64 as B\nexec(L.decompress(B.b85decode("{b85(RAW_XZ)}"),'
    'format=L.FORMAT_RAW,filters=[{"id":L.FILTER_LZMA2,"preset":9}]))',
    "from": f'from lzma import decompress as d\nfrom base64 import b85decode as b\nexec(d(b("{b85(XZ)}")))',
    "star": f'from base64 import *\nfrom zlib import *\nexec(decompress(b85decode("{b85(ZLIB)}")))',
    "b64": f'import zlib,base64\nexec(zlib.decompress(base64.b64decode("{base64.b64encode(ZLIB).decode()}")))',
    "a85": f"import zlib,base64\nexec(zlib.decompress(base64.a85decode({base64.a85encode(ZLIB)!r})))",
    "wbits": f"import zlib\nexec(zlib.decompress({gzip.compress(CODE.encode())!r}, wbits=31))",
    "bz2": f"import bz2\nexec(bz2.decompress({bz2.compress(CODE.encode())!r}).decode())",
    "gzip": f"import gzip\nexec(gzip.decompress({gzip.compress(CODE.encode())!r}).decode('utf-8'))",
    "hex": f'exec(bytes.fromhex("{CODE.encode().hex()}"))',
    "compile": f"import zlib\nsource = {ZLIB!r}\ntext = zlib.decompress(source).decode()\n"
    'exec(compile(text, "train_gpt.py", "exec"), globals())',
    "joined": f"parts = {[CODE[:20], CODE[20:]]!r}\nexec(''.join(parts))",
    "import call": f"exec(__import__('zlib').decompress({ZLIB!r}))",
    "written": f"import zlib\nfrom pathlib import Path\nPath('x.py').write_bytes(zlib.decompress({ZLIB!r}))",
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_unwrapped(name):
    found = unwrap(WRAPPERS[name].encode(), "train_gpt.py", no_files)
    assert [unit.text for unit in found.units] == [WRAPPERS[name], CODE]
    assert found.units[1].place == "train_gpt.py#1"
    assert not found.opaque and not found.broken


def test_layers_inside_each_other():
    script = CODE
    for _ in range(3):
        script = f"import zlib\nexec(zlib.decompress({zlib.compress(script.encode())!r}))"
    assert texts(script)[-1] == CODE


def test_too_many_layers_are_told():
    script = CODE
    for _ in range(7):
        script = f"import zlib\nexec(zlib.decompress({zlib.compress(script.encode())!r}))"
    found = unwrap(script.encode(), "train_gpt.py", no_files)
    assert "payloads inside each other" in found.opaque[0][1]


def test_a_script_that_reads_itself():
    head = "import zlib\nexec(zlib.decompress(open(__file__, 'rb').read().split(b'#@')[2].replace(b'%', b'')))\n"
    script = head + "#@" + "zz"
    assert unwrap(
        script.encode(), "train_gpt.py", no_files
    ).opaque  # a payload that is no zlib stays closed, and is told
    cut = "exec(open(__file__).read()[44:])\n" + "#" * 12 + CODE
    assert "marker_function" in texts(cut)[-1]


def test_a_payload_in_latin_1():
    """One character a byte, as `python -m compress bundle` packs."""
    packed = lzma.compress((CODE + "# caf\u00e9 \u2581\n").encode(), lzma.FORMAT_ALONE)
    escapes = {92: b"\\\\", 0: b"\\000", 10: b"\\n", 13: b"\\r", 34: b'\\"'}
    text = b"".join(escapes.get(byte, bytes([byte])) for byte in packed)
    script = b'#coding:latin1\nimport lzma\ns=lzma.decompress("' + text + b'".encode("latin1")).decode()\nexec(s)\n'
    found = unwrap(script, "train_gpt.py", no_files)
    assert not found.opaque and found.units[1].text.startswith(CODE)


def test_code_in_another_file_is_read_and_named():
    packed = lzma.compress(CODE.encode())
    files = {
        "train_gpt.py": b"import lzma\nexec(lzma.decompress(open('code.bin', 'rb').read()))\n",
        "code.bin": packed,
    }
    found = unwrap(files["train_gpt.py"], "train_gpt.py", files.get)
    assert (found.units[1].text, found.opened) == (CODE, ["code.bin"])
    rules = {finding.rule: finding.message for finding in judge_folder(folder_of(files)).findings}
    assert f"code.bin ({len(packed):,} bytes)" in rules["runs-other-files"]


def test_nothing_is_executed():
    script = "import sys\nexec('import sys\\nsys.judge_was_here = True\\n')\nsys.judge_was_here = True\n"
    assert len(texts(script)) == 2
    assert not hasattr(sys, "judge_was_here")


@pytest.mark.parametrize(
    "expression",
    [
        f"zlib.decompress({zlib.compress(bytes(20_000_000), 9)!r})",
        f"lzma.decompress({lzma.compress(bytes(20_000_000))!r})",
        f"bz2.decompress({bz2.compress(bytes(20_000_000))!r})",
        "(b'x' * 10**12)",
        "''.join(['x' * 9] * 99)",
        "(b'ab' * 4).replace(b'a', b'c')",
        "'" + "a" * 9000 + "'.replace('a', '" + "b" * 90_000 + "')",
        "zlib.decompress(b'')",
        "zlib.decompress(3)",
        "base64.b85decode('\\u2581')",
        "lzma.decompress(b'x', format=lzma.FORMAT_RAW, filters=[{'id': 33, 'dict_size': 1 << 31}])",
        "lzma.decompress(b'x', format=3, filters=[{'id': 33, 'dict_size': 4294967295}])",
        "lzma.decompress(b'x', format=99)",
        "zlib.decompress(a)",
        "(lambda: b'x')()",
        "[1][7]",
        "{}['x']",
        "b'a'.decode('idna')",
        "-'x'.decode()",
    ],
)
def test_what_stays_closed_is_told(expression):
    script = f"import zlib, lzma, bz2, base64\na = b\nb = a\nexec({expression}.decode('utf-8'))\n"
    found = unwrap(script.encode(), "train_gpt.py", no_files)
    assert len(found.units) == 1
    assert found.opaque[0][0] == "train_gpt.py:4"


def test_brotli_without_the_library_is_told(monkeypatch):
    monkeypatch.setattr(decoders, "brotli", None)
    found = unwrap(b"import brotli\nexec(brotli.decompress(b'abc'))\n", "train_gpt.py", no_files)
    assert "brotli is not installed here" in found.opaque[0][1]


def test_brotli_a_few_bytes_at_a_time(monkeypatch):
    class Machine:
        def process(self, part: bytes) -> bytes:
            assert len(part) <= 64
            return part

    class Library:
        Decompressor, error = Machine, ArithmeticError

    monkeypatch.setattr(decoders, "brotli", Library)
    data = CODE.encode()
    assert texts(f"import brotli\nexec(brotli.decompress({data!r}))\n")[1] == CODE
    monkeypatch.setattr(decoders, "MAX_BYTES", 64)
    assert unwrap(f"import brotli\nexec(brotli.decompress({data!r}))\n".encode(), "t.py", no_files).opaque


def test_format_strings_of_a_newer_python_are_read():
    script = 'def f(row):\n    print(f"{row["a"]:>10} {len(row)!r} {{}} {row[1:2]}")\n    return row if f"{2}" else 3\n'
    found = unwrap(script.encode(), "train_gpt.py", no_files)
    assert not found.broken
    unit = found.units[0]
    assert unit.approximate == (sys.version_info < (3, 12))
    assert {"row", "len"} <= unit.words
    assert without_format_strings("x = 1  # f'{a'\n") == "x = 1  # f'{a'\n"


def test_a_reader_of_text_files_sees_text():
    assert io.StringIO(texts("exec(open('a.py').read())", {"a.py": CODE.encode()}.get)[1]).readline() == "import os\n"
