"""The curves of a track: what is drawn is what the logs say, and the command writes one PNG."""

from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from picture.test_leaderboard import make_submission
from tiny_runs import command

from records.picture.curves import TrackCurve, read_curve, spread, track_png, write_curves
from records.submission import read_submission
from runtime.errors import UserError

END = 4.5  # seconds of training, as the submission of the helper says


def make_log(record: Path, name: str, points: list[tuple[int, float]], average: float = 1.0) -> None:
    """A log with a validation a point (step, bits per byte), a second one of the average at the last step."""
    lines = [f"step:{step}/9 val_loss:3.0 val_bpb:{bpb} train_time:{500 * step}ms step_avg:500ms weights:training"
             for step, bpb in [*points, (points[-1][0], average)]]  # fmt: skip
    (record / name).write_text("\n".join(lines) + "\n")


def make_track(root: Path, count: int) -> list[Path]:
    """Records of three seeds each, the later the worse."""
    records = []
    for number in range(count):
        record = make_submission(root, f"Record-{number}", 1.5 + 0.02 * number).parent
        for seed in (1, 2, 3):
            shift = 0.02 * number + 0.03 * seed
            make_log(record, f"train_seed{seed}.log", [(step, 1.5 + shift + 1.5 / step) for step in (1, 3, 5, 9)])
        records.append(record)
    return records


def test_a_curve_is_what_the_logs_say(tmp_path):
    record = make_submission(tmp_path, "One", 1.5).parent
    make_log(record, "train_seed1.log", [(2, 3.0), (6, 2.0)])
    make_log(record, "train_seed2.log", [(2, 3.2), (4, 2.6), (8, 2.2)])
    curve = read_curve(record, read_submission(record / "submission.json"), "One, 30 s")
    assert curve.label == "One, 30 s"
    assert curve.end == (END, 1.5)
    # The average at the last step is another set of weights, and no point of the line.
    assert curve.seeds == [[(1.0, 3.0), (3.0, 2.0)], [(1.0, 3.2), (2.0, 2.6), (4.0, 2.2)]]
    x, mean, low, high = curve.mean_and_range()
    assert x.tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(mean, [3.1, 2.55, 2.2])
    np.testing.assert_allclose(low, [3.0, 2.5, 2.0])
    np.testing.assert_allclose(high, [3.2, 2.6, 2.4])


def test_the_command_draws_every_record_of_the_track(tmp_path):
    make_track(tmp_path, 8)
    half = make_submission(tmp_path, "Half", 1.0).parent
    half.rename(half.with_name(".2026-11-22_Half.77.tmp"))
    done = command(["-m", "records", "curves", "--folder", str(tmp_path)], tmp_path)
    path = tmp_path / "track_pocket" / "curves.png"
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(path), "")
    picture = matplotlib.image.imread(path)
    assert picture.shape[1] == 1800 and picture.std() > 0.02
    assert path.read_bytes() == write_curves(tmp_path, "track_pocket").read_bytes()


def test_records_of_one_name_are_drawn_with_their_budgets(tmp_path, monkeypatch):
    for title, seconds in (("Same", 30.0), ("Same-longer", 60.0)):
        make_submission(tmp_path, title, 1.5, name="Same", train_seconds_cap=seconds)
    drawn = []
    monkeypatch.setattr("records.picture.curves.track_png", lambda curves: drawn.extend(curves) or b"")
    write_curves(tmp_path, "track_pocket")
    assert [curve.label for curve in drawn] == ["Same, 30 s", "Same, 60 s"]


def test_a_record_without_validations_and_with_a_strange_name_is_still_marked(tmp_path):
    bare = TrackCurve("a $x_{ name\x1b", [], (9.0, 1.4))
    other = TrackCurve("other", [[]], (9.0, 1.5))
    assert bare.mean_and_range()[0].size == other.mean_and_range()[0].size == 0
    assert track_png([bare, other]) != track_png([bare])


def test_names_keep_apart():
    heights = spread([0.1, 0.1, 0.11, 0.6], 0.05)
    assert sum(heights) == pytest.approx(0.1 + 0.1 + 0.11 + 0.6)
    assert all(after - before >= 0.05 - 1e-12 for before, after in pairwise(heights))


def test_a_track_without_records_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds none; python -m records new RUN makes one"):
        write_curves(tmp_path, "track_pocket")
    with pytest.raises(UserError, match="track must be a name like"):
        write_curves(tmp_path, "../elsewhere")
