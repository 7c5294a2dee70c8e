"""A scorer in the sandbox as the judge talks to it: tokens out, log-probabilities in, within the time that is left."""

import os
import select
import subprocess
import time
from pathlib import Path

import numpy as np

from records.dynamic.sandbox import Sandbox, end_process
from records.dynamic.worker import message_bytes, read_message

_WORKER = Path(__file__).with_name("worker.py")
_OUT_OF_MEMORY = ("MemoryError", "allocate memory", "out of memory", "bad_alloc")


class ScorerError(Exception):
    """The scorer ended, raised something, or answered what is no table of log-probabilities."""


class TimeLimitError(Exception):
    """The scorer took longer than it may."""


class MemoryLimitError(Exception):
    """The scorer asked for more memory than it may have."""


class ScorerSession:
    """One process that holds the scorer; every stream of text begins with a new scorer object in it."""

    def __init__(
        self,
        sandbox: Sandbox,
        place: str,  # file.py:function
        artifact: Path,
        vocab_size: int,
        **environment: str,
    ) -> None:
        self._sandbox, self._vocab_size = sandbox, vocab_size
        self._deadline = time.monotonic() + sandbox.limits.seconds
        arguments = [str(_WORKER), place, str(artifact)]
        self._process: subprocess.Popen = sandbox.start(arguments, artifact.parent, **environment)
        self.declared: dict[str, bool] = {}

    def fresh(self) -> None:
        """Begins a new stream: a new scorer that has seen nothing. Raises as `score` does."""
        self.declared, _ = self._ask({"op": "fresh"})

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Log-probabilities [T, V] of what follows each of the next T tokens of the stream.

        Raises ScorerError, TimeLimitError or MemoryLimitError; the session is of no use after any of them.
        """
        header, payload = self._ask({"op": "score"}, np.asarray(tokens, dtype=np.int64).tobytes())
        shape, kind = tuple(header.get("shape", ())), header.get("dtype")
        if kind not in ("float32", "float64"):
            raise ScorerError(f"log-probabilities must be float32 or float64, got {kind}")
        if shape != (len(tokens), self._vocab_size):
            raise ScorerError(
                f"the scorer must answer {len(tokens)} tokens with log-probabilities of shape "
                f"({len(tokens)}, {self._vocab_size}), got {shape}"
            )
        return np.frombuffer(payload, dtype=kind).reshape(shape)

    def end(self) -> None:
        """Ends the process."""
        end_process(self._process)

    def _ask(self, header: dict[str, str], payload: bytes = b"") -> tuple[dict, bytes]:
        try:
            self._process.stdin.write(message_bytes(header, payload))
            self._process.stdin.flush()
            answer, rows = read_message(self._read)
        except (EOFError, BrokenPipeError) as error:
            raise self._ended() from error
        except ValueError as error:
            raise ScorerError(f"the answer was no message: {error}") from error
        if "error" in answer:
            text = f"{answer['error']}: {answer['message']}"
            kind = MemoryLimitError if is_out_of_memory(text) else ScorerError
            raise kind(text)
        return answer, rows

    def _read(self, count: int) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
            end_process(self._process, 0)
            raise TimeLimitError(f"not done after {self._sandbox.limits.seconds:g} s")
        # Past the buffer of the file object, which select knows nothing of.
        return os.read(self._process.stdout.fileno(), min(count, 1 << 20))

    def _ended(self) -> Exception:
        code, said = end_process(self._process, 0), self._sandbox.last_error()
        kind = MemoryLimitError if is_out_of_memory(said) else ScorerError
        return kind(f"the process ended with code {code}: {said}")


def is_out_of_memory(message: str) -> bool:
    """Whether this is how Python, numpy or torch says that there is no more memory.

    >>> is_out_of_memory("MemoryError: Unable to allocate 3.73 GiB")
    True
    """
    return any(sign in message for sign in _OUT_OF_MEMORY)
