"""The one exception a user is meant to read: the rule, the value, the nearest right one."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave; the message is one line and every command exits with code 2 on it."""

    exit_code = 2


def nearest(word: str, candidates: Iterable[str], count: int = 3) -> str:
    """Names the candidates closest to `word`, for the end of an error message.

    >>> nearest("int5_int", ["baseline", "demo", "int5_int6"])
    'nearest: int5_int6'
    >>> nearest("zzz", ["baseline", "demo"])
    'one of: baseline, demo'
    """
    known = sorted(set(candidates))
    close = difflib.get_close_matches(word, known, n=count, cutoff=0.4)
    return f"nearest: {', '.join(close)}" if close else f"one of: {', '.join(known)}"


def check_positive(name: str, value: int) -> None:
    """Raises UserError unless value is 1 or more.

    >>> check_positive("heads", 0)
    Traceback (most recent call last):
    runtime.errors.UserError: heads must be at least 1, got 0; nearest 1
    """
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}; nearest 1")


def nearest_multiple(value: int, step: int) -> int:
    """The multiple of `step` closest to `value`, at least one `step`.

    >>> nearest_multiple(500_000, 16_384)
    507904
    """
    return max(1, round(value / step)) * step
