"""What a process opens, connects to and starts, written down as it happens: the sitecustomize of the sandbox.

Python runs this file before any other in every process of the sandbox. An audit hook cannot be taken off again. It
sees what Python does, not what a C library opens by itself: for that the sandbox covers the data folder and the
network. Only the standard library is imported, since the code under test has packages of the same names as ours.
"""

import json
import os
import sys
from typing import Any

# Where the lines go: {"kind": "read", "detail": "/path"}.
LOG_VARIABLE = "JUDGE_LOG"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
_SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_STARTING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}


def start_recording(log: str) -> None:
    """Appends every new file, address and command of this process to the file `log`, and refuses the addresses."""
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    seen: set[tuple[str, str]] = set()
    write, spell = os.write, json.dumps

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        entry = recorded(event, arguments)
        if entry and entry not in seen:
            seen.add(entry)
            write(out, (spell({"kind": entry[0], "detail": entry[1]}) + "\n").encode())
        if entry and entry[0] == "network":
            raise PermissionError(f"this process has no network: {entry[1]}")

    sys.addaudithook(hook)


def recorded(event: str, arguments: tuple[Any, ...]) -> tuple[str, str] | None:
    """(kind, detail) of an audit event: read, write, network or process; None for any other."""
    if event == "open":
        return _opened(*arguments)
    if event in _LOOKUPS:
        return "network", f"look-up of {arguments[0]}"
    if event in _SENDING and isinstance(arguments[1], tuple):
        # A socket of the file system has a path for an address, one of the network a tuple.
        return "network", f"connection to {arguments[1][0]}:{arguments[1][1]}"
    return ("process", str(arguments[0])) if event in _STARTING else None


def _opened(path: Any, mode: Any, flags: int) -> tuple[str, str] | None:
    if isinstance(path, int) or path is None:
        return None
    try:
        return "write" if flags & _WRITING else "read", os.path.realpath(os.fsdecode(path))
    except (OSError, TypeError, ValueError):
        return None


if os.environ.get(LOG_VARIABLE) and __name__ == "sitecustomize":
    start_recording(os.environ[LOG_VARIABLE])
