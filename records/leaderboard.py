"""The leaderboards, from the submission.json of every record: the files are the truth.

A track has a table of its own, the lowest mean score first; the record of a seed that went into a record of several is
not shown beside it. All tables stand in records/README.md, that of a track also in the README of its folder, and a
short form of the pocket's in the README of the repository. The same files give the same text, byte for byte.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from records.fields import STREAM, Submission
from records.markers import between_markers
from records.readme import markdown_table
from records.submission import read_submission
from runtime.files import read_bytes, write_text

BOARD_START, BOARD_END = "<!-- leaderboard: python -m records table -->", "<!-- end of leaderboard -->"
_SHOWN_IN_SHORT = "track_pocket"
_NOTE = (
    "The mean over n seeds ± the sample deviation (n - 1), read back from the packed files; bytes of code and model; "
    "tokens seen in training, and the share of the measured bf16 matrix peak that training reached, are means."
)
_EMPTY = "No record yet."

Track = list[tuple[Path, Submission]]


def write_leaderboards(root: Path) -> list[Path]:
    """Writes every table under `root`, the folder of the tracks, and into the README above it; returns what it wrote.

    A track's README and the one above may be without a table; `root`/README.md must have its place. Raises UserError
    for a submission.json that is wrong, before anything is written.
    """
    tracks = _read_tracks(root)
    boards = {root / "README.md": _all_boards(tracks, root)}
    places = {path: (path.parent.name, tuple(_COLUMNS)) for path in sorted(root.glob("track_*/README.md"))}
    places |= dict.fromkeys(root.parent.glob("README.md"), (_SHOWN_IN_SHORT, _SHORT))
    for path, (track, columns) in places.items():
        if BOARD_START in _text(path):
            boards[path] = _board(tracks.get(track, []), path.parent, columns)
    texts = {path: between_markers(_text(path), BOARD_START, BOARD_END, board) for path, board in boards.items()}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def leaderboard(root: Path) -> str:
    """The tables of all records under `root`/track_*/. Raises UserError naming a submission.json that is wrong."""
    return _all_boards(_read_tracks(root), root)


def _read_tracks(root: Path) -> dict[str, Track]:
    """The records of every track, the best first."""
    tracks = {folder.name: read_track(folder) for folder in sorted(root.glob("track_*"))}
    return {track: held for track, held in tracks.items() if held}


def read_track(folder: Path) -> Track:
    """The lowest score first, without the records of a seed that a record of several seeds has taken in."""
    paths = sorted(folder.glob("*/submission.json"))
    # A record that is being written lies under a hidden name.
    held = [(path.parent, read_submission(path)) for path in paths if not path.parent.name.startswith(".")]
    made = [{result.artifact_sha256 for result in submission.seed_results.values()} for _, submission in held]
    whole = [entry for entry, own in zip(held, made, strict=True) if not any(own < other for other in made)]
    return sorted(whole, key=lambda entry: (entry[1].val_bpb, entry[0].name))


def names_apart(submissions: Sequence[Submission]) -> list[str]:
    """Their names, each that several share with its budget of training behind it, and if it must be with its date."""
    names = [submission.name for submission in submissions]
    for told in (_trained, lambda submission: submission.date.isoformat()):
        shared, named = Counter(names), zip(names, submissions, strict=True)
        names = [name if shared[name] == 1 else f"{name}, {told(submission)}" for name, submission in named]
    return names


def _text(path: Path) -> str:
    return read_bytes(path, "a README with a leaderboard").decode("utf-8")


def _all_boards(tracks: dict[str, Track], root: Path) -> str:
    parts = [f"**{track}**\n\n{_board(held, root, tuple(_COLUMNS))}" for track, held in tracks.items()]
    return "\n\n".join([_NOTE, *parts]) if parts else _EMPTY


def _bits(submission: Submission) -> str:
    deviation = "" if submission.val_bpb_std is None else f" ± {submission.val_bpb_std:.4f}"
    return f"{submission.val_bpb:.4f}{deviation}"


def _tokens(submission: Submission) -> str:
    return f"{statistics.fmean(result.tokens_seen for result in submission.seed_results.values()):,.0f}"


def _share(submission: Submission) -> str:
    """Of the seeds whose machine was measured."""
    shares = [result.share_of_peak for result in submission.seed_results.values() if result.share_of_peak]
    return f"{statistics.fmean(shares):.2f}" if shares else ""


def _trained(submission: Submission) -> str:
    """The budget of training: seconds, or what was spent of model FLOPs where the clock was none."""
    if submission.train_seconds_cap:
        return f"{submission.train_seconds_cap:g} s"
    flops = [result.model_flops for result in submission.seed_results.values() if result.model_flops]
    return f"{max(flops):.2g} FLOPs".replace("e+", "e") if flops else ""


def _scored(submission: Submission) -> str:
    how = submission.evaluation
    if how.protocol == STREAM:
        return f"stream of {how.chunk}, documents {how.documents}"
    return f"windows of {how.window}, stride {how.stride}"


_COLUMNS = {
    "bits per byte": _bits,
    "n": lambda submission: str(len(submission.seeds)),
    "bytes": lambda submission: f"{submission.bytes_total:,}",
    "tokens seen": _tokens,
    "share of peak": _share,
    "trained": _trained,
    "scored": _scored,
    "recipe": lambda submission: f"`{_cell(submission.recipe)}`",
    "hardware": lambda submission: _cell(submission.hardware),
    "date": lambda submission: submission.date.isoformat(),
}
_SHORT = ("bits per byte", "n", "bytes", "tokens seen", "share of peak", "trained", "scored")


def _board(held: Track, place: Path, columns: Sequence[str]) -> str:
    """The table of a track; its links start at the folder `place`."""
    rows = []
    for folder, submission in held:
        link = folder.relative_to(place).as_posix().replace(" ", "%20")
        rows.append([f"[{_cell(submission.name)}]({link}/)", *(_COLUMNS[column](submission) for column in columns)])
    return markdown_table(["record", *columns], rows) if rows else _EMPTY


def _cell(text: str) -> str:
    """A text as a cell of a table: it neither ends the cell nor becomes markup.

    >>> print(_cell("a|b <i>"))
    a\\|b &lt;i&gt;
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
