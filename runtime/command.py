"""How every command ends: a UserError is one line on stderr and its exit code, never a traceback."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from runtime.errors import UserError


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Runs `command` and returns its exit code: what it returned (None is 0), 2 for a UserError, 130 for Ctrl-C."""
    try:
        return command() or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing half made is left\n")
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def exit_with(command: Callable[[], int | None]) -> NoReturn:
    """Leaves the process with the exit code of `command`."""
    sys.exit(exit_code_of(command))
