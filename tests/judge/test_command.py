"""python -m records check: lines for readers, JSON for continuous integration, exit codes, and its seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from judge.clean_record import NAME, TRACK, clean_files

from records.judge.coverage import CLASSES, judge_tables, with_judge_tables
from records.judge.rules import RULES, found
from runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def records(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "records", *words], cwd=ROOT, capture_output=True, text=True)


def write(folder: Path, **changes: bytes) -> str:
    folder.mkdir(parents=True)
    for name, data in {**clean_files(), **changes}.items():
        (folder / name).write_bytes(data)
    return str(folder)


def test_exit_codes_are_those_of_the_worst(tmp_path):
    clean = write(tmp_path / TRACK / NAME)
    doubtful = write(tmp_path / TRACK / "2026-04-20_Doubtful", **{"README.md": b"val_bpb 1.3333"})
    invalid = write(tmp_path / TRACK / "2026-04-20_Invalid", **{"train_gpt.py": b""})
    none = str(tmp_path / "none")
    done = records("check", clean)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"{clean}: clean"
    assert records("check", clean, doubtful).returncode == 1
    done = records("check", clean, doubtful, invalid)
    assert done.returncode == 2
    assert any(line.startswith("  invalid   script-empty  train_gpt.py: ") for line in done.stdout.splitlines())
    done = records("check", clean, none)
    assert done.returncode == 3
    assert f"{none}: not readable" in done.stdout
    refused = records("check")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: check takes at least 1 record folder")


def test_json_for_machines(tmp_path):
    folder = write(tmp_path / TRACK / NAME, **{"README.md": b"val_bpb 1.3333"})
    done = records("check", folder, "--json")
    (verdict,) = json.loads(done.stdout)
    assert (done.returncode, verdict["folder"], verdict["verdict"]) == (1, folder, "doubtful")
    first = verdict["findings"][0]
    assert set(first) == {"severity", "rule", "message", "evidence", "confidence", "why"}
    assert (first["rule"], first["severity"]) == ("readme-disagrees", "doubtful")


def test_it_needs_no_torch(tmp_path):
    folder = write(tmp_path / TRACK / NAME)
    code = (
        "import sys; from pathlib import Path; from records.judge.judge import judge_path; "
        f"judge_path(Path({folder!r})); sys.exit('torch' in sys.modules or 'scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_readme_holds_the_tables():
    text = (ROOT / "records" / "README.md").read_text(encoding="utf-8")
    assert text == with_judge_tables(text), "python -m records rules --write brings it up to date"
    assert judge_tables() in text
    with pytest.raises(UserError, match="the README must hold"):
        with_judge_tables("no markers")


def test_tables_name_rules_that_exist():
    for entry in CLASSES:
        assert set(entry.static) <= set(RULES)
        assert entry.static or entry.dynamic or entry.machine
    assert len({entry.name for entry in CLASSES}) == len(CLASSES)
    with pytest.raises(KeyError):
        found("no-such-rule", "", "")


def test_rules_are_printed():
    done = records("rules")
    assert done.returncode == 0
    assert done.stdout.startswith(judge_tables())
