"""python -m records curves: bits per byte over seconds of training for the records that a leaderboard shows.

A line is the mean over the seeds of the validations in their logs, a band their range, and the mark at its end the
score of the record, read back from its bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from records.fields import Submission
from records.judge.finding import printable
from records.leaderboard import names_apart, read_track
from records.log_grammar import read_log
from records.picture.charts import COLOURS, drawn
from records.submission import check_track
from runtime.errors import UserError
from runtime.files import write_bytes

CURVES_FILE = "curves.png"
_WIDTH, _HEIGHT = 9.0, 5.4  # inches: at 100 dots each, 900 pixels
_DASHES, _MARKS = ("-", "--", ":"), ("D", "o", "s")
# Neighbouring labels stand this share of the axis apart.
_APART = 0.052


@dataclass(frozen=True)
class TrackCurve:
    """One record: every seed's validations as (seconds, bits per byte), and where its packed score stands."""

    label: str
    seeds: list[list[tuple[float, float]]]
    end: tuple[float, float]

    def mean_and_range(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Seconds, mean, lowest and highest, at every time of a validation that all seeds reach; empty without any."""
        if not self.seeds or not all(self.seeds):
            return (np.empty(0),) * 4
        times = [[second for second, _ in seed] for seed in self.seeds]
        first, last = max(map(min, times)), min(map(max, times))
        x = np.array(sorted({second for seed in times for second in seed if first <= second <= last}))
        y = np.array([np.interp(x, own, [bpb for _, bpb in seed]) for own, seed in zip(times, self.seeds, strict=True)])
        return x, y.mean(0), y.min(0), y.max(0)


def write_curves(root: Path, track: str) -> Path:
    """Draws the records under `root`/`track` into its curves.png and returns the path.

    Raises UserError for a track without records, and for a record whose files cannot be read.
    """
    check_track(track)
    held = read_track(root / track)
    if not held:
        raise UserError(f"curves are of records, {root / track} holds none; python -m records new RUN makes one")
    names = names_apart([submission for _, submission in held])
    curves = [read_curve(*record, name) for record, name in zip(held, names, strict=True)]
    write_bytes(root / track / CURVES_FILE, track_png(curves))
    return root / track / CURVES_FILE


def read_curve(folder: Path, submission: Submission, label: str) -> TrackCurve:
    """The curve of the record in `folder`, from its submission and its logs."""
    seeds = []
    for path in sorted(folder.glob("train*.log")):
        # Two validations of one step are of the last weights and of their average: the line is of the weights.
        found: dict[int, tuple[float, float]] = {}
        for entry in read_log(path).validations:
            if entry.train_seconds is not None and np.isfinite(entry.val_bpb):
                found.setdefault(entry.step, (entry.train_seconds, entry.val_bpb))
        seeds.append([found[step] for step in sorted(found)])
    seconds = np.mean([result.train_time_s for result in submission.seed_results.values()])
    return TrackCurve(label, seeds, (float(seconds), submission.val_bpb))


def track_png(curves: list[TrackCurve]) -> bytes:
    """The figure as PNG; colours repeat with other dashes and marks, every line has its name at its end."""
    with drawn(_HEIGHT, _WIDTH) as (figure, axes, png):
        for index, curve in enumerate(curves):
            colour, turn = COLOURS[index % len(COLOURS)], index // len(COLOURS) % len(_DASHES)
            x, mean, low, high = curve.mean_and_range()
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, mean, color=colour, linestyle=_DASHES[turn], linewidth=1.8)
            axes.plot(*curve.end, _MARKS[turn], color=colour, markersize=7, markeredgecolor="white", zorder=3)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("bits per byte of the validation text")
        axes.spines["right"].set_visible(False)
        axes.set_xlim(left=0)
        # The first steps would leave no room for the differences at the end.
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.25 * max(curve.end[1] for curve in curves)))
        figure.subplots_adjust(left=0.075, right=0.66, top=0.92, bottom=0.11)
        axes.set_title("lines: plain windows, mean and range of the seeds; marks: from the packed bytes", fontsize=10)
        _name_ends(axes, curves)
    return png.getvalue()


def _name_ends(axes, curves: list[TrackCurve]) -> None:
    """Writes every name to the right of the axes, at the height of its end or the nearest that is free."""
    low, high = axes.get_ylim()
    wanted = [(curve.end[1] - low) / (high - low) for curve in curves]
    for index, (curve, height) in enumerate(zip(curves, spread(wanted, _APART), strict=True)):
        axes.annotate(
            f"{curve.end[1]:.4f}  {printable(curve.label)[:32]}",
            xy=curve.end,
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=COLOURS[index % len(COLOURS)],
            fontsize=10,
            va="center",
            parse_math=False,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.8, "relpos": (0, 0.5)},
        )


def spread(wanted: list[float], apart: float) -> list[float]:
    """Heights in the order of `wanted`, which rises: at least `apart` from each other, on average where they wish.

    >>> spread([0.0, 0.0, 3.0, 3.0], 0.5)
    [-0.25, 0.25, 2.75, 3.25]
    """
    heights: list[float] = []
    for wish in wanted:
        heights.append(max(wish, heights[-1] + apart) if heights else wish)
    lift = (sum(heights) - sum(wanted)) / len(wanted)
    return [height - lift for height in heights]
