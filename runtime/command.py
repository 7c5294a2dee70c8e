"""How every command ends: a UserError is one line on stderr and its exit code, never a traceback."""

import sys
from collections.abc import Callable
from typing import NoReturn

from runtime.errors import UserError


def exit_with(command: Callable[[], int | None]) -> NoReturn:
    """Runs `command` and leaves the process with what it returned (None is 0)."""
    try:
        code = command() or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 130
    sys.exit(code)
