"""The leaderboard of records/README.md, from the submission.json of every record: the files are the truth.

A track has a table of its own, the lowest mean score first. The same files give the same text, byte for byte.
"""

from pathlib import Path

from records.fields import Submission
from records.readme import markdown_table
from records.submission import read_submission
from runtime.errors import UserError

BOARD_START, BOARD_END = "<!-- leaderboard: python -m records table -->", "<!-- end of leaderboard -->"
_HEAD = ["record", "bits per byte", "n", "bytes", "recipe", "hardware", "date"]
_NOTE = (
    "The mean over n seeds ± the sample deviation (n - 1), read back from the packed files; bytes of code and model."
)


def leaderboard(root: Path) -> str:
    """The tables of all records under `root`/track_*/. Raises UserError naming a submission.json that is wrong."""
    tracks: dict[str, list[tuple[Path, Submission]]] = {}
    for path in sorted(root.glob("track_*/*/submission.json")):
        # A record that is being written lies under a hidden name.
        if not path.parent.name.startswith("."):
            tracks.setdefault(path.parent.parent.name, []).append((path.parent, read_submission(path)))
    if not tracks:
        return "No record yet."
    parts = [_NOTE]
    for track, held in tracks.items():
        ranked = sorted(held, key=lambda entry: (entry[1].val_bpb, entry[0].name))
        parts.append(f"**{track}**\n\n{markdown_table(_HEAD, [_board_row(root, *entry) for entry in ranked])}")
    return "\n\n".join(parts)


def with_leaderboard(text: str, board: str) -> str:
    """`text` with `board` between its markers. Raises UserError when the markers are not there."""
    before, start, rest = text.partition(BOARD_START)
    _, end, after = rest.partition(BOARD_END)
    if not start or not end:
        raise UserError(f"the README must hold {BOARD_START} and {BOARD_END} for the leaderboard, got neither or one")
    return f"{before}{BOARD_START}\n\n{board}\n\n{BOARD_END}{after}"


def _board_row(root: Path, folder: Path, submission: Submission) -> list[str]:
    deviation = "" if submission.val_bpb_std is None else f" ± {submission.val_bpb_std:.4f}"
    link = folder.relative_to(root).as_posix().replace(" ", "%20")
    return [
        f"[{_cell(submission.name)}]({link}/)",
        f"{submission.val_bpb:.4f}{deviation}",
        str(len(submission.seeds)),
        f"{submission.bytes_total:,}",
        f"`{_cell(submission.recipe)}`",
        _cell(submission.hardware),
        submission.date.isoformat(),
    ]


def _cell(text: str) -> str:
    """A text as a cell of a table: it neither ends the cell nor becomes markup.

    >>> print(_cell("a|b <i>"))
    a\\|b &lt;i&gt;
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
