"""The leaderboard: from the files, best first, the same text again, and nothing that is wrong in silence."""

import json
from pathlib import Path

import pytest
from tiny_runs import ROOT, command

from records.leaderboard import BOARD_END, BOARD_START, leaderboard, names_apart, write_leaderboards
from records.submission import read_submission
from runtime.errors import UserError

README = f"# Records\n\n{BOARD_START}\n\nold\n\n{BOARD_END}\n\nThe rest.\n"


def make_submission(root: Path, title: str, bpb: float, track: str = "track_pocket", **changes: object) -> Path:
    """A record of one seed, its submission.json alone."""
    seed = {
        "val_loss": 2 * bpb,
        "val_bpb": bpb,
        "artifact_bytes": 900,
        "artifact_sha256": "0" * 64,
        "steps": 9,
        "step_avg_ms": 500.0,
        "train_time_s": 4.5,
        "eval_time_s": 1.0,
        "tokens_seen": 9000,
    }
    implied = 1000 * 2 * bpb / 0.6931471805599453 / bpb
    tree = {
        "author": "Sixteen", "github_id": "sixteen", "name": title, "blurb": "Small.", "date": "2026-11-22",
        "track": track, "val_loss": 2 * bpb, "val_bpb": bpb, "val_loss_std": None, "val_bpb_std": None,
        "bytes_total": 1000, "bytes_code": 100, "bytes_model": 900, "seeds": [42], "seed_results": {"42": seed},
        "hardware": "2 CPU cores", "pytorch_version": "2.13.0", "python_version": "3.11.7", "recipe": "demo",
        "overrides": [], "fingerprint": "0" * 16, "train_seconds_cap": 30.0, "budget": 1_000_000,
        "evaluation": {"protocol": "sliding windows", "window": 512, "stride": 64, "tokens": 1000,
                       "bytes": round(implied), "implied_bytes": implied},
        "code_sha256": "0" * 64, "technique_summary": "Small.",
        "compliance": {"train_under_cap": True, "eval_under_600s": True, "artifact_under_budget": True,
                       "three_seeds": False},
    } | changes  # fmt: skip
    path = root / track / f"2026-11-22_{title}" / "submission.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(tree))
    return path


def test_the_best_of_a_track_stands_first(tmp_path):
    make_submission(tmp_path, "Worse", 1.6)
    make_submission(tmp_path, "Better", 1.5)
    make_submission(tmp_path, "Elsewhere", 1.2, "track_10min_16mb")
    lines = [line for line in leaderboard(tmp_path).splitlines() if line.startswith(("| [", "**"))]
    assert [line.split("]")[0].lstrip("| [*") for line in lines] == [
        "track_10min_16mb**", "Elsewhere", "track_pocket**", "Better", "Worse"
    ]  # fmt: skip
    row = (
        "| [Better](track_pocket/2026-11-22_Better/) | 1.5000 | 1 | 1,000 | 9,000 |  | 30 s | "
        "windows of 512, stride 64 | `demo` | 2 CPU cores | 2026-11-22 |"
    )
    assert row in lines


def calibrated(path: Path, **changes: object) -> dict:
    """Puts what the machine was measured to do into the submission at `path`: a quarter of the peak of 40 GFLOP/s."""
    tree = json.loads(path.read_text())
    told = {"bf16_peak_gflops": 40.0, "fp32_peak_gflops": 60.0, "model_flops": 4.5e10, "share_of_peak": 0.25}
    tree["seed_results"]["42"] |= told | changes
    path.write_text(json.dumps(tree))
    return tree


def test_what_the_machine_and_the_protocol_were_stands_in_the_row(tmp_path):
    calibrated(make_submission(tmp_path, "Clocked", 1.5))
    (row,) = (line for line in leaderboard(tmp_path).splitlines() if line.startswith("| [Clocked"))
    assert "| 9,000 | 0.25 | 30 s | windows of 512, stride 64 |" in row
    path = make_submission(tmp_path, "Counted", 1.6)
    tree = calibrated(path) | {"train_seconds_cap": None}
    how = {**tree["evaluation"], "protocol": "stream", "chunk": 256, "documents": "restart"}
    tree["evaluation"] = {name: value for name, value in how.items() if name not in ("window", "stride")}
    path.write_text(json.dumps(tree | {"compliance": tree["compliance"] | {"train_under_cap": None}}))
    assert "| 0.25 | 4.5e10 FLOPs | stream of 256, documents restart |" in leaderboard(tmp_path)


def test_a_seed_that_went_into_a_record_of_several_is_not_shown_beside_it(tmp_path):
    one = json.loads(make_submission(tmp_path, "One", 1.5).read_text())["seed_results"]["42"]
    make_submission(tmp_path, "Other", 1.4)
    both = {"42": one, "7": {**one, "artifact_sha256": "1" * 64, "val_bpb": 1.7, "val_loss": 3.4}}
    implied = {"bytes": 2885, "implied_bytes": 1000 * 2 / 0.6931471805599453}
    evaluation = {"protocol": "sliding windows", "window": 512, "stride": 64, "tokens": 1000, **implied}
    scores = {"val_bpb": 1.6, "val_loss": 3.2, "val_bpb_std": 0.02**0.5, "val_loss_std": 0.08**0.5}
    changes = {"seeds": [42, 7], "seed_results": both, "evaluation": evaluation, **scores}
    path = make_submission(tmp_path, "Both", 1.6, **changes)
    shown = [line for line in leaderboard(tmp_path).splitlines() if line.startswith("| [")]
    assert len(shown) == 1 and shown[0].startswith("| [Both](track_pocket/2026-11-22_Both/) | 1.6000 ± 0.1414 | 2 |")
    path.unlink()
    assert leaderboard(tmp_path).count("| [") == 2


def test_a_name_that_several_records_share_has_its_budget_behind_it_and_then_its_date(tmp_path):
    same, other = make_submission(tmp_path, "Same", 1.5), make_submission(tmp_path, "Other", 1.6)
    longer = make_submission(tmp_path, "Same-longer", 1.4, name="Same", train_seconds_cap=60.0)
    submissions = [read_submission(path) for path in (longer, same, other)]
    assert names_apart(submissions) == ["Same, 60 s", "Same, 30 s", "Other"]
    submissions.append(read_submission(make_submission(tmp_path, "Same-later", 1.45, name="Same", date="2026-11-25")))
    assert names_apart(submissions) == ["Same, 60 s", "Same, 30 s, 2026-11-22", "Other", "Same, 30 s, 2026-11-25"]


def places_of(folder: Path) -> dict[str, Path]:
    """READMEs of a repository, its records and its pocket track, each with a place for a table."""
    places = {"top": folder, "records": folder / "records", "track": folder / "records" / "track_pocket"}
    for place in places.values():
        place.mkdir(exist_ok=True)
        (place / "README.md").write_text(README)
    return {name: place / "README.md" for name, place in places.items()}


def test_the_tables_stand_where_they_belong_and_nothing_else_changes(tmp_path):
    places = places_of(tmp_path)
    calibrated(make_submission(tmp_path / "records", "Only", 1.5))
    make_submission(tmp_path / "records", "Elsewhere", 1.2, "track_10min_16mb")
    written = write_leaderboards(tmp_path / "records")
    assert set(written) == set(places.values())
    texts = {name: path.read_text() for name, path in places.items()}
    for text in texts.values():
        assert text.startswith("# Records\n\n") and text.endswith("\n\nThe rest.\n") and "old" not in text
    write_leaderboards(tmp_path / "records")
    assert texts == {name: path.read_text() for name, path in places.items()}
    assert "[Only](track_pocket/2026-11-22_Only/)" in texts["records"] and "Elsewhere" in texts["records"]
    assert "| [Only](2026-11-22_Only/) | 1.5000 |" in texts["track"] and "Elsewhere" not in texts["track"]
    (short,) = (line for line in texts["top"].splitlines() if "Only" in line)
    assert short == (
        "| [Only](records/track_pocket/2026-11-22_Only/) | 1.5000 | 1 | 1,000 | 9,000 | 0.25 | "
        "30 s | windows of 512, stride 64 |"
    )


def test_a_readme_without_a_place_stays_as_it_is(tmp_path):
    places = places_of(tmp_path)
    for name in ("top", "track"):
        places[name].write_text("# Mine\n")
    assert write_leaderboards(tmp_path / "records") == [places["records"]]
    assert places["top"].read_text() == "# Mine\n" and "No record yet." in places["records"].read_text()
    places["records"].write_text("# Mine\n")
    with pytest.raises(UserError, match="the README must hold <!-- leaderboard"):
        write_leaderboards(tmp_path / "records")


def test_the_command_says_what_it_wrote(tmp_path):
    places = places_of(tmp_path)
    make_submission(tmp_path / "records", "Only", 1.5)
    done = command(["-m", "records", "table", "--folder", str(tmp_path / "records")], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == set(map(str, places.values()))
    assert all("2026-11-22_Only/" in path.read_text() for path in places.values())


def test_records_in_the_making_and_other_folders_do_not_count(tmp_path):
    assert leaderboard(tmp_path) == "No record yet."
    make_submission(tmp_path, "Only", 1.5)
    path = make_submission(tmp_path, "Half", 1.4)
    path.parent.rename(path.parent.with_name(".2026-11-22_Half.77.tmp"))
    (tmp_path / "track_pocket" / "notes").mkdir()
    assert leaderboard(tmp_path).count("](track_pocket/") == 1


def test_a_wrong_submission_is_named_and_nothing_is_written(tmp_path):
    path = make_submission(tmp_path, "Only", 1.5, bytes_total=999)
    (tmp_path / "README.md").write_text(README)
    with pytest.raises(UserError, match=r"2026-11-22_Only/submission.json: bytes_total must be bytes_code"):
        write_leaderboards(tmp_path)
    assert (tmp_path / "README.md").read_text() == README
    path.write_text("{}")
    with pytest.raises(UserError, match="is missing"):
        leaderboard(tmp_path)


def test_a_name_cannot_break_the_table(tmp_path):
    make_submission(tmp_path, "Only", 1.5, name="a | b <b>")
    assert "[a \\| b &lt;b&gt;](" in leaderboard(tmp_path)


@pytest.mark.parametrize("name", ["README.md", "records/README.md", "records/track_pocket/README.md"])
def test_the_tables_in_the_repository_are_in_their_places(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count(BOARD_START) == text.count(BOARD_END) == 1
