"""Scripts of a newer Python made readable here: since 3.12 an f-string may hold its own kind of quote."""

import itertools
import re

MAX_STRINGS = 2_000

_FORMAT_STRING = re.compile(r"\b([fF][rR]?|[rR][fF])(\"\"\"|'''|\"|')")
# What follows the expression in a brace: !r, and the format; a colon inside brackets belongs to the expression.
_FORMAT = re.compile(r"(![rsa])?(?<!\[)(:[^\]\)\}\"']*)?$")


def without_format_strings(text: str) -> str:
    """`text` with every f-string replaced by the sum of what it formats, line for line.

    >>> without_format_strings('print(f"{row["a"]} of {n:.2f}")')
    'print(str([(row["a"]),(n),]))'
    """
    result, position = [], 0
    for match in itertools.islice(_FORMAT_STRING.finditer(text), MAX_STRINGS):
        if match.start() < position or text.rfind("#", text.rfind("\n", 0, match.start()) + 1, match.start()) >= 0:
            continue
        end, parts = _formatted(text, match.end(), match[2])
        if end is None:
            continue
        lines = text.count("\n", match.start(), end)
        result += [text[position : match.start()], f"str([{''.join(f'({part}),' for part in parts)}])", " \\\n" * lines]
        position = end
    return "".join(result) + text[position:]


def _formatted(text: str, start: int, quote: str) -> tuple[int | None, list[str]]:
    """The end of the f-string whose contents begin at `start`, and the expressions in its braces."""
    position, parts = start, []
    while position < len(text) and not text.startswith(quote, position):
        if text[position] == "\\" or text.startswith(("{{", "}}"), position):
            position += 2
        elif text[position] == "{":
            end = _closing(text, position)
            if end is None:
                return None, []
            parts.append(_FORMAT.sub("", text[position + 1 : end].replace("\n", " ")).rstrip().rstrip("="))
            position = end + 1
        else:
            position += 1
    return (position + len(quote), parts) if position < len(text) else (None, [])


def _closing(text: str, start: int) -> int | None:
    """Where the brace opened at `start` closes; strings inside it are passed over."""
    depth, position = 0, start
    while position < min(len(text), start + 4_000):
        character = text[position]
        if character in "\"'":
            position = text.find(character, position + 1)
            if position < 0:
                return None
        depth += (character in "{[(") - (character in "}])")
        if depth == 0:
            return position
        position += 1
    return None
