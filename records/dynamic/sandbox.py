"""Where a submission runs: another process, no network, an empty home, no training text, and a list of what it opened.

    scratch/  home/  tmp/  site/sitecustomize.py  opened.jsonl  and the folders that a stage adds

Where the kernel permits (unshare), the process has a network namespace without interfaces, dies with its children, and
sees an empty folder where the data set lies. Elsewhere only Python's audit hook refuses connections, and the report
says so. It is made against mistakes and shortcuts; a submission that attacks the judge must be found by reading it.
"""

import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from records.dynamic.recorder import LOG_VARIABLE

_KEPT_VARIABLES = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
# A submission that fills the disk is ended before it is full.
MAX_FILE_BYTES = 4 << 30
# (command, whether it may cover a folder), the strictest first.
_CONFINEMENTS = (
    (_NAMESPACES, True),
    ([*_NAMESPACES, "--map-root-user"], True),
    (["unshare", "--net", "--map-root-user"], False),
)
_COVERED = ["sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh"]


@dataclass(frozen=True)
class SandboxLimits:
    """What one process may use; the memory is what it may write to, in bytes."""

    seconds: float = 600.0
    memory: int = 16 << 30


@dataclass(frozen=True)
class Confinement:
    """How a process is held, and how that is told."""

    prefix: tuple[str, ...]
    says: str
    is_kernels: bool = True  # False: Python's audit hook alone


class Sandbox:
    """A scratch folder and the processes that run in it."""

    def __init__(
        self,
        scratch: Path,  # empty
        hidden: Path,  # the data folder, which no process may see
        limits: SandboxLimits,
    ) -> None:
        self.scratch, self.hidden, self.limits = scratch.resolve(), hidden.resolve(), limits
        for name in ("home", "tmp", "site"):
            (self.scratch / name).mkdir()
        recorder = Path(__file__).with_name("recorder.py")
        shutil.copyfile(recorder, self.scratch / "site" / "sitecustomize.py")
        self.confinement = confinement_of(self.hidden)

    def start(
        self,
        arguments: Sequence[str],  # after `python`
        folder: Path,  # to run in
        **environment: str,
    ) -> subprocess.Popen:
        """A process of the sandbox with pipes on its input and output; errors go to `errors`."""
        with open(self.scratch / "errors.txt", "ab") as errors:
            return subprocess.Popen(
                [*self.confinement.prefix, sys.executable, *arguments],
                cwd=folder,
                env={**self._environment(), **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_limiter(self.limits),
            )

    def opened(self) -> list[tuple[str, str]]:
        """(kind, detail) of what the processes did until now, each once, in order."""
        path = self.scratch / "opened.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return list(dict.fromkeys(entry for line in lines if (entry := _entry(line))))

    def last_error(self) -> str:
        """The last line that a process wrote on stderr."""
        lines = (self.scratch / "errors.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "nothing on stderr")

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        own = {
            "HOME": str(self.scratch / "home"),
            "TMPDIR": str(self.scratch / "tmp"),
            "PYTHONPATH": str(self.scratch / "site"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Where other programs run too, threads that spin for each other take minutes for seconds of work.
            "OMP_WAIT_POLICY": "PASSIVE",
            LOG_VARIABLE: str(self.scratch / "opened.jsonl"),
        }
        return kept | own


@functools.cache
def confinement_of(hidden: Path) -> Confinement:
    """The strictest confinement that this machine permits, tried out once."""
    for command, covers in _CONFINEMENTS:
        prefix = [*command, "--", *_COVERED, str(hidden)] if covers else [*command, "--"]
        if (
            shutil.which("unshare")
            and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        ):
            seen = "the data folder covered" if covers else "the data folder in sight, its use recorded"
            return Confinement(tuple(prefix), f"network namespace without interfaces; {seen}; empty home")
    return Confinement((), "no namespace permitted here: Python's audit hook refuses sockets; empty home", False)


def end_process(
    process: subprocess.Popen,
    patience: float = 2.0,  # seconds between the end of its input and its own
) -> int:
    """Ends a process of the sandbox and its children; its exit code, negative for a signal."""
    if process.stdout.closed:
        return process.wait()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    # Its group is there as long as one of its children is.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    return process.wait()


def peak_child_memory() -> int:
    """The most memory in bytes that one ended child of this process has held."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _limiter(limits: SandboxLimits) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return limit


def _entry(line: str) -> tuple[str, str] | None:
    try:
        fields = json.loads(line)
        return str(fields["kind"]), str(fields["detail"])
    except (ValueError, KeyError, TypeError):
        return None
