"""python -m data as a user types it: what it prints, its exit codes, one line for a mistake."""

import json
import sys

import pytest

from data.__main__ import main
from data.manifest import read_manifest
from data.shards import open_shard


@pytest.fixture
def data(monkeypatch, capsys):
    """Runs `python -m data ARGUMENTS` in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data", *map(str, arguments)])
        code = main()
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "tales.jsonl"
    rows = [{"id": f"tale-{number}", "text": f"once upon a time there were {number} bears\n"} for number in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_build_then_check_then_build_again(data, lines, tmp_path):
    out = tmp_path / "out"
    arguments = ["build", "--jsonl", lines, "--vocab", "300", "--out", out]
    code, printed, errors = data(*arguments)
    assert (code, errors) == (0, "")
    assert printed.startswith(f"built {out} in ")
    code, printed, errors = data("check", out)
    assert (code, errors) == (0, "")
    assert "no id, text or whitespace-folded text stands in both splits; 60 of 60 documents recovered" in printed
    code, printed, errors = data(*arguments)
    assert (code, errors) == (0, "")
    assert printed.startswith(f"{out} is there already, with these options and documents; nothing to do")
    manifest = read_manifest(out)
    assert (manifest.options.corpus, manifest.options.source) == ("tales", "jsonl:tales.jsonl")
    assert len(open_shard(out / "tales_train_000000.bin")) == manifest.train.totals.tokens


def test_build_from_text_files_by_its_default_folder(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"once upon a time there were {number} bears\n")
    code, printed, _ = data("build", "--text", "*.txt", "--vocab", "290", "--name", "bears", "--val-one-in", "4")
    assert code == 0
    assert "built data/datasets/bears_sp290" in printed
    assert (tmp_path / "data/datasets/bears_sp290/bears_val_000000.bin").is_file()


def test_build_says_what_was_lost(data, lines, tmp_path):
    rows = [
        {"id": "a", "text": "train text\u2581", "part": "train"},
        {"id": "b", "text": " val text", "part": "val"},
        {"id": "c", "text": "val  text\n", "part": "train"},
        *({"id": str(number), "text": f"text number {number}", "part": "train"} for number in range(30)),
    ]
    lines.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--jsonl", lines, "--split-field", "part", "--vocab", "290", "--out", tmp_path / "out"]
    code, printed, _ = data("build", *arguments)
    assert code == 0
    assert "dropped c: the text stands in val (b)" in printed
    assert "1 train documents decode to another text than their own: U+2581 is read back as a space" in printed
    assert "1 val documents begin with a space, which scoring does not charge" in printed
    assert data("check", tmp_path / "out")[0] == 0


def test_check_prints_a_line_a_finding_and_exits_with_1(data, lines, tmp_path):
    data("build", "--jsonl", lines, "--vocab", "300", "--out", tmp_path / "out")
    shard = tmp_path / "out/tales_val_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    code, printed, errors = data("check", tmp_path / "out")
    assert (code, errors) == (1, "")
    assert printed.splitlines()[0].startswith(f"{shard} is truncated")
    shard.unlink()
    assert data("check", tmp_path / "out")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build"], "error: a build takes exactly one of --corpus, --jsonl and --text, got none"),
        (["build", "--corpus", "sotu", "--text", "x"], "got corpus and text"),
        (["build", "--corpus", "sotus"], "error: unknown corpus 'sotus'; nearest: sotu"),
        (["build", "--corpus", "sotu", "--split-field", "x"], "--split-field belongs to --jsonl, got --corpus"),
        (["build", "--corpus", "sotu", "--normalisation", "idenity"], "'idenity'; nearest: identity"),
        (["build", "--jsonl", "gone.jsonl"], "error: the corpus cannot be read: gone.jsonl"),
        (["build", "--text", "gone/*.txt"], "--text must match at least one file, got 'gone/*.txt'"),
        (["check", "gone"], "error: the manifest of the data set cannot be read: gone/manifest.json"),
        (["download", "--variant", "1024"], "error: a variant is called sp and its number of pieces, got '1024'"),
        (["download", "--train-shards", "0"], "got --train-shards 0; nearest 1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(data, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed, errors = data(*arguments)
    assert (code, printed) == (2, "")
    assert message in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
