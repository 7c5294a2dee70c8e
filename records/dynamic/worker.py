"""What runs inside the sandbox: it makes a scorer, feeds it the tokens that arrive and sends back what it says.

    parent -> worker   {"op": "fresh"}                         a new scorer, nothing seen
                       {"op": "score"} + int64 [T]             the next T tokens of its stream
    worker -> parent   {"shape": [T, V], "dtype": ...} + rows, or {"error": type, "message": text}

A message is two little-endian lengths (u32, u64), JSON and raw bytes; nothing is unpickled. The next tokens are not
sent before the last ones are answered. Only numpy and the standard library are imported, since the code under test has
packages of the same names as ours; the judge imports this file for the messages.
"""

import importlib.util
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_LENGTHS = struct.Struct("<IQ")
# 4,096 tokens of a vocabulary of 65,536 in float64.
MAX_HEADER, MAX_PAYLOAD = 1 << 16, 1 << 31


def read_message(
    read: Callable[[int], bytes],  # at least 1 and at most so many bytes; b"" at the end
) -> tuple[dict[str, Any], bytes]:
    """The next message: (header, payload). Raises EOFError when the other side is gone, ValueError when it is none."""
    header_length, length = _LENGTHS.unpack(_exactly(read, _LENGTHS.size))
    if header_length > MAX_HEADER or length > MAX_PAYLOAD:
        raise ValueError(f"a message holds at most {MAX_PAYLOAD:,} bytes, got {length:,}")
    return json.loads(_exactly(read, header_length)), _exactly(read, length)


def message_bytes(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """A message as it travels.

    >>> import io
    >>> read_message(io.BytesIO(message_bytes({"op": "fresh"}, b"abc")).read)
    ({'op': 'fresh'}, b'abc')
    """
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def load_function(place: str) -> Callable[[str], Any]:
    """The function that `path/file.py:name` says; the file is run as a module of its own name, never as __main__."""
    path, _, name = place.rpartition(":")
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is run.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


class Stream:
    """One scorer and the text that it has been given so far."""

    def __init__(self, make: Callable[[str], Any], artifact: str) -> None:
        self._scorer = make(artifact)
        self._state = None

    @property
    def declared(self) -> dict[str, bool]:
        """What the scorer says of itself."""
        names = ("adaptive", "isolates_documents")
        return {name: bool(getattr(self._scorer, name, False)) for name in names}

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Log-probabilities [T, V] of what follows each of the tokens [T]."""
        rows, self._state = self._scorer.log_probs(tokens, self._state)
        rows = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
        return np.ascontiguousarray(rows, dtype=np.float64 if rows.dtype == np.float64 else np.float32)


def serve(place: str, artifact: str, source: int, sink: int) -> None:
    """Answers messages from the descriptor `source` on the descriptor `sink` until nobody asks any more."""
    make = stream = None
    while True:
        try:
            header, payload = read_message(lambda count: os.read(source, min(count, 1 << 20)))
        except EOFError:
            return
        try:
            if header["op"] == "fresh":
                make = make or load_function(place)
                stream = Stream(make, artifact)
                answer = message_bytes(stream.declared)
            else:
                rows = stream.score(np.frombuffer(payload, dtype=np.int64).copy())
                answer = message_bytes({"shape": rows.shape, "dtype": rows.dtype.name}, rows.tobytes())
        except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is an answer
            answer = message_bytes({"error": type(error).__name__, "message": str(error)[:400]})
        _write_all(sink, answer)


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = read(count - len(parts))
        if not part:
            raise EOFError("the other side is gone")
        parts += part
    return bytes(parts)


def _write_all(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


if __name__ == "__main__":
    own_source, own_sink = os.dup(0), os.dup(1)
    # What the scorer prints must not end up among the answers.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.path.pop(0)
    serve(sys.argv[1], sys.argv[2], own_source, own_sink)
    # Everything is sent; a library may take a second to put itself away.
    os._exit(0)
