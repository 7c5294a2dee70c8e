"""The figures of a report as PNG: one idea each, narrow enough for a phone, the numbers written where they belong."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.special import stdtrit

# Colours that colour-blind people can tell apart (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_WIDTH, _DPI = 4.8, 200


@dataclass(frozen=True)
class Chart:
    """A figure; without a PNG the caption says why there is none."""

    name: str  # of its file, without .png
    title: str
    caption: str
    png: bytes | None = None


@dataclass(frozen=True)
class Line:
    """One run in a chart of curves."""

    label: str
    x: list[float]
    nats: list[float]
    dots: list[tuple[float, float]]  # (x, nats) of validations


def curves_chart(name: str, title: str, x_label: str, lines: list[Line], bits_per_nat: float | None) -> Chart:
    """Loss in nats a token on the left axis, the same in bits per byte on the right one."""
    lines = [line for line in lines if line.x or line.dots]
    if not lines:
        return Chart(name, title, f"The log has no step with its {x_label}.")
    with drawn(3.4) as (figure, axes, png):
        for line, colour in zip(lines, _colours(len(lines)), strict=True):
            axes.plot(line.x, line.nats, color=colour, linewidth=1.6, label=line.label)
            if line.dots:
                axes.plot(*zip(*line.dots, strict=True), "o", color=colour, markersize=4)
        axes.set_xlabel(x_label)
        axes.set_ylabel("training loss, nats a token")
        axes.set_xlim(left=0)
        if bits_per_nat:
            twin = axes.secondary_yaxis("right", functions=(lambda y: y * bits_per_nat, lambda y: y / bits_per_nat))
            twin.set_ylabel("bits per byte")
        if len(lines) > 1:
            axes.legend(fontsize=9)
        figure.tight_layout()
    last = ", ".join(f"{line.label} {line.nats[-1]:.3f}" for line in lines if line.nats)
    right = "The right axis is the same in the bytes of the validation text. " if bits_per_nat else ""
    dots = "Dots are validations. " if any(line.dots for line in lines) else ""
    return Chart(name, title, f"{right}{dots}Last training loss: {last or 'not logged'}.", png.getvalue())


def bars_chart(
    name: str,
    title: str,
    caption: str,
    bars: list[tuple[str, float, str]],  # label, length, what is written behind it
) -> Chart:
    """Horizontal bars, each under its label, so that long labels fit a narrow page."""
    if not bars:
        return Chart(name, title, caption)
    with drawn(0.5 + 0.52 * len(bars)) as (figure, axes, png):
        places = np.arange(len(bars))[::-1]
        lengths = np.array([length for _, length, _ in bars])
        axes.barh(places, lengths, height=0.36, color=COLOURS[0])
        for place, length, (label, _, figures) in zip(places, lengths, bars, strict=True):
            axes.text(0, place + 0.24, label, va="bottom", fontsize=10)
            axes.text(length, place, f" {figures}", va="center", fontsize=10)
        axes.set_xlim(0, 1.5 * max(lengths.max(), 1e-9))
        axes.set_ylim(-0.5, len(bars) - 0.2)
        _bare(axes)
        figure.tight_layout()
    return Chart(name, title, caption, png.getvalue())


def stages_chart(name: str, stages: list[tuple[str, float]]) -> Chart:
    """Bits per byte of one run from its weights in training to its last score."""
    title = "Stages of the score"
    if not stages:
        return Chart(name, title, "No log tells a score.")
    with drawn(0.7 + 0.6 * len(stages)) as (figure, axes, png):
        places, values = np.arange(len(stages))[::-1], [value for _, value in stages]
        axes.plot(values, places, "o", color=COLOURS[0])
        for place, (label, value) in zip(places, stages, strict=True):
            axes.annotate(label, (0, place + 0.24), xycoords=("axes fraction", "data"), va="bottom", fontsize=10)
            axes.annotate(f"{value:.4f}", (value, place), (8, 0), textcoords="offset points", va="center", fontsize=10)
        axes.set_ylim(-0.4, len(stages) - 0.3)
        axes.margins(x=0.25)
        axes.set_xlabel("bits per byte")
        _bare(axes, x_too=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        figure.tight_layout()
    return Chart(name, title, "Lower is better; the last one is the claim.", png.getvalue())


def seeds_chart(name: str, rows: list[tuple[str, list[float]]]) -> Chart:
    """Points of every seed, the mean and its 95 % t interval where there are two seeds or more."""
    title = "Score of each seed"
    rows = [(label, values) for label, values in rows if values]
    told = "; ".join(f"{label}: {interval_text(values)}" for label, values in rows)
    if sum(len(values) for _, values in rows) < 2:
        return Chart(name, title, f"{told or 'No score of a seed is claimed'}.")
    with drawn(1.0 + 0.62 * len(rows)) as (figure, axes, png):
        for place, (label, values) in zip(range(len(rows))[::-1], rows, strict=True):
            if len(values) > 1:
                mean, half = np.mean(values), t_half_width(values)
                axes.plot([mean - half, mean + half], [place, place], color="#888888", linewidth=6, alpha=0.5)
                axes.plot([mean], [place], "|", color="black", markersize=16)
            axes.plot(values, [place] * len(values), "o", color=COLOURS[0], markersize=5)
            axes.annotate(label, (0, place + 0.22), xycoords=("axes fraction", "data"), va="bottom", fontsize=10)
        axes.set_ylim(-0.5, len(rows) - 0.1)
        axes.set_xlabel("bits per byte")
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4f}"))
        _bare(axes, x_too=False)
        figure.tight_layout()
    return Chart(name, title, f"{told}. A bar is the 95 % t interval of the mean.", png.getvalue())


def position_chart(name: str, ranges: list[dict[str, float]]) -> Chart:
    """Nats of a target by the tokens before it, with the standard error over the windows."""
    title = "Score by position in the window"
    if not ranges:
        missing = "Not measured. python -m records verify FOLDER --data DIR --json > FOLDER/verify.json measures it."
        return Chart(name, title, missing)
    with drawn(3.0) as (figure, axes, png):
        centres = [np.sqrt(entry["from"] * entry["to"]) for entry in ranges]
        errors = [entry.get("error", 0.0) for entry in ranges]
        axes.errorbar(centres, [entry["nats"] for entry in ranges], errors, fmt="o-", color=COLOURS[0], capsize=3)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("tokens of context")
        axes.set_ylabel("nats a target")
        figure.tight_layout()
    first, last = ranges[0], ranges[-1]
    caption = (
        f"{first['nats']:.3f} nats after {first['from']} token, {last['nats']:.3f} after {last['from']} or more. "
        f"Bars are the standard error over {last['windows']} windows from random places."
    )
    return Chart(name, title, caption, png.getvalue())


def t_half_width(values: list[float]) -> float:
    """Half of the 95 % t interval of the mean.

    >>> round(t_half_width([1.0, 2.0, 3.0]), 4)
    2.4841
    """
    return float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values)))


def interval_text(values: list[float]) -> str:
    """Mean and interval in words; one value has no interval.

    >>> interval_text([1.0]), interval_text([1.0, 2.0, 3.0])
    ('1.0000 (n = 1, no interval)', '2.0000 ± 2.4841 (n = 3)')
    """
    mean = f"{np.mean(values):.4f}"
    return (
        f"{mean} (n = 1, no interval)"
        if len(values) == 1
        else f"{mean} ± {t_half_width(values):.4f} (n = {len(values)})"
    )


@contextmanager
def drawn(height: float, width: float = _WIDTH) -> Iterator[tuple[Figure, Axes, io.BytesIO]]:
    """A figure of this size in inches, its axes, and the PNG once the block is left."""
    png = io.BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=_DPI)
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot(), png
        # No version in it: the same facts give the same bytes.
        figure.savefig(png, format="png", metadata={"Software": None})


def _bare(axes: Axes, x_too: bool = True) -> None:
    """Takes off what a chart with its numbers written in it does not need."""
    axes.set_yticks([])
    axes.spines[["left", "right"]].set_visible(False)
    axes.grid(False)
    if x_too:
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
