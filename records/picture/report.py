"""python -m records report: one HTML file of one or several records, and its figures as PNG beside it."""

from pathlib import Path

from records.picture.charts import Chart, seeds_chart
from records.picture.facts import PictureFacts, read_picture
from records.picture.gallery import gallery_of
from records.picture.page import page_of
from runtime.errors import UserError
from runtime.files import write_bytes, write_text

REPORT_FILE = "report.html"


def write_report(
    folders: list[Path],
    out: Path,  # a folder
    verified: list[Path] | None = None,  # what `records verify --json` printed, one a folder, in their order
) -> Path:
    """Writes `out`/report.html and its PNGs, and returns the path of the page.

    Raises UserError for no folder, one that cannot be read, or a number of verifications that is not theirs.
    """
    if not folders:
        raise UserError(
            "report takes at least 1 record folder, got none; for example records/track_pocket/2026-11-22_Name"
        )
    if verified and len(verified) != len(folders):
        raise UserError(f"--verified takes one file a folder, {len(folders)}, got {len(verified)}")
    records = [
        read_picture(folder, path) for folder, path in zip(folders, verified or [None] * len(folders), strict=True)
    ]
    drawn = [(facts, gallery_of(facts)) for facts in records]
    overview = _overview(records) if len(records) > 1 else None
    for number, (_, charts) in enumerate(drawn, start=1):
        for chart in charts:
            _write_png(chart, out, f"{number}-{chart.name}" if len(drawn) > 1 else chart.name)
    if overview:
        _write_png(overview, out, overview.name)
    write_text(out / REPORT_FILE, page_of(drawn, overview))
    return out / REPORT_FILE


def _overview(records: list[PictureFacts]) -> Chart:
    """Every record's seeds on one axis, the best first."""
    rows = [(facts.title, list(facts.seed_scores.values())) for facts in records]
    return seeds_chart("all-seeds", sorted(rows, key=lambda row: min(row[1], default=float("inf"))))


def _write_png(chart: Chart, out: Path, name: str) -> None:
    if chart.png is not None:
        write_bytes(out / f"{name}.png", chart.png)
