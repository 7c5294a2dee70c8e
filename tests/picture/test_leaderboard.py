"""The leaderboard: from the files, best first, the same text again, and nothing that is wrong in silence."""

import json
from pathlib import Path

import pytest
from tiny_runs import ROOT, command

from records.leaderboard import BOARD_END, BOARD_START, leaderboard, with_leaderboard
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
    row = "| [Better](track_pocket/2026-11-22_Better/) | 1.5000 | 1 | 1,000 | `demo` | 2 CPU cores | 2026-11-22 |"
    assert row in lines


def test_the_same_files_give_the_same_text_and_nothing_else_changes(tmp_path):
    make_submission(tmp_path, "Only", 1.5)
    once = with_leaderboard(README, leaderboard(tmp_path))
    assert with_leaderboard(once, leaderboard(tmp_path)) == once
    assert once.startswith("# Records\n\n") and once.endswith("\n\nThe rest.\n") and "old" not in once


def test_the_command_writes_it_twice_the_same(tmp_path):
    make_submission(tmp_path, "Only", 1.5)
    (tmp_path / "README.md").write_text(README)
    texts = []
    for _ in range(2):
        done = command(["-m", "records", "table", "--readme", str(tmp_path / "README.md")], tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        texts.append((tmp_path / "README.md").read_text())
    assert texts[0] == texts[1] and "[Only](track_pocket/2026-11-22_Only/)" in texts[0]


def test_records_in_the_making_and_other_folders_do_not_count(tmp_path):
    assert leaderboard(tmp_path) == "No record yet."
    make_submission(tmp_path, "Only", 1.5)
    path = make_submission(tmp_path, "Half", 1.4)
    path.parent.rename(path.parent.with_name(".2026-11-22_Half.77.tmp"))
    (tmp_path / "track_pocket" / "notes").mkdir()
    assert leaderboard(tmp_path).count("](track_pocket/") == 1


def test_a_wrong_submission_is_named_and_nothing_is_written(tmp_path):
    path = make_submission(tmp_path, "Only", 1.5, bytes_total=999)
    with pytest.raises(UserError, match=r"2026-11-22_Only/submission.json: bytes_total must be bytes_code"):
        leaderboard(tmp_path)
    path.write_text("{}")
    with pytest.raises(UserError, match="is missing"):
        leaderboard(tmp_path)


def test_a_readme_without_markers_is_refused():
    with pytest.raises(UserError, match="the README must hold <!-- leaderboard"):
        with_leaderboard("# Records\n", "No record yet.")


def test_a_name_cannot_break_the_table(tmp_path):
    make_submission(tmp_path, "Only", 1.5, name="a | b <b>")
    assert "[a \\| b &lt;b&gt;](" in leaderboard(tmp_path)


def test_the_table_in_the_repository_is_in_its_place():
    text = (ROOT / "records" / "README.md").read_text(encoding="utf-8")
    assert text.count(BOARD_START) == text.count(BOARD_END) == 1
