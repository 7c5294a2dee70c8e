"""Strange folders and every spelling of a claim: read, judged, told, never a traceback."""

import json
import os
from pathlib import Path

import pytest
from judge.clean_record import (
    NAME,
    SCRIPT,
    SEEDS,
    TRACK,
    clean_files,
    clean_submission,
    in_json,
    in_logs,
    in_script,
    judged,
    rules_of,
    with_file,
    without,
)

from records.judge.claims import read_claims
from records.judge.folder import MAX_TEXT_BYTES, folder_of, read_folder
from records.judge.judge import judge_folder, judge_path
from records.judge.record import track_kind
from runtime.errors import UserError


def write(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, data in (files or clean_files()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def claims_of(**fields: object):
    return read_claims(json.dumps(fields).encode(), "submission.json")


@pytest.mark.parametrize(
    ("fields", "name", "value", "key"),
    [
        ({"val_bpb": 1.0811}, "val_bpb", 1.0811, "val_bpb"),
        ({"mean_val_bpb": 1.0811}, "val_bpb", 1.0811, "mean_val_bpb"),
        ({"mean_bpb": "1.0811"}, "val_bpb", 1.0811, "mean_bpb"),
        ({"val_loss": 1.0811}, "val_bpb", 1.0811, "val_loss"),
        ({"val_loss": 1.90684}, "val_loss", 1.90684, "val_loss"),
        ({"val_loss": 1.0811, "val_bpb": 1.0811}, "val_loss", 1.0811, "val_loss"),
        ({"artifact_bytes": 15_897_259}, "bytes_total", 15_897_259, "artifact_bytes"),
        ({"artifact_size_bytes": None, "total_bytes": "15,897,259"}, "bytes_total", 15_897_259, "total_bytes"),
        ({"training_time_seconds": 600}, "train_seconds", 600, "training_time_seconds"),
        ({"run_name": "  A run "}, "name", "A run", "run_name"),
        ({"submitter": "somebody"}, "author", "somebody", "submitter"),
        ({"val_bpb": None, "val_bpb_mean": 1.1}, "val_bpb", 1.1, "val_bpb_mean"),
        ({"val_bpb": True, "bpb": 1.1}, "val_bpb", 1.1, "bpb"),
    ],
)
def test_a_claim_in_any_spelling(fields, name, value, key):
    claims = claims_of(**fields)
    assert (claims.values[name], claims.used[name]) == (value, key)


@pytest.mark.parametrize(
    "fields",
    [
        {"seeds": [42, 7], "seed_results": {"42": {"val_bpb": 1.1}, "7": {"val_bpb": 1.2}}},
        {"seeds": {"42": {"val_bpb": 1.1, "ttt_time_ms": 3}, "7": {"val_bpb": 1.2}}},
        {"seed_results": [{"seed": 42, "val_bpb": 1.1}, {"seed": "seed_7", "bpb": "1.2"}]},
        {"seed_results": {"seed_42": 1.1, "seed7": 1.2, "mean": 1.15}},
        {"per_seed": {"42": {"mean_val_bpb": 1.1}, "7": {"val_bpb": 1.2}}, "seeds": ["42", 7]},
    ],
)
def test_seeds_in_any_form(fields):
    claims = claims_of(**fields)
    assert set(claims.seeds) == {42, 7}
    assert claims.results == {42: {"val_bpb": 1.1}, 7: {"val_bpb": 1.2}}


def test_the_spelling_is_told():
    verdict = judged(in_json(val_bpb=None, mean_val_bpb=clean_submission()["val_bpb"]))
    assert verdict.exit_code == 0
    told = next(finding.message for finding in verdict.findings if finding.rule == "key-variant")
    assert told == "read val_bpb from mean_val_bpb"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"nul", b'{"a": NaN}', b"[" * 100_000, b'{"a":' * 990 + b"1" + b"}" * 990, b"\xff"]
)
def test_a_submission_that_is_none(data):
    with pytest.raises(UserError, match="submission.json"):
        read_claims(data, "submission.json")
    assert judged(with_file("submission.json", data)).exit_code == 2


def test_tracks_in_any_spelling():
    assert [track_kind(text) for text in ("10min_16mb", "track_10min_16mb", "Record (10 min, 16 MB)")] == ["10min"] * 3
    assert [track_kind(text) for text in ("non-record", "track_non_record_16mb", "unlimited compute")] == [
        "non_record"
    ] * 3
    assert [track_kind(text) for text in ("track_pocket", "", "wherever")] == ["pocket", "", ""]


def test_the_limits_are_those_of_the_track():
    slow = in_logs("train_time: 592054ms", "train_time: 9999999ms")
    assert "training-overrun" in rules_of(judged(slow))
    unlimited = in_json(track="track_non_record_16mb")
    assert "training-overrun" not in rules_of(judged(slow, unlimited, parent="track_non_record_16mb"))
    pocket = in_json(track="track_pocket", budget=1_000)
    assert "total-over-budget" in rules_of(judged(pocket, parent="track_pocket"))
    slower = in_logs("train_time: 592054ms", "train_time: 700000ms")
    for flops, overrun in ((5e13, False), (5.1e13, True), (None, True)):
        seeds = {seed: result | {"train_time_s": 700.0} for seed, result in clean_submission()["seed_results"].items()}
        counted = in_json(track="track_pocket", seed_results={s: r | {"model_flops": flops} for s, r in seeds.items()})
        assert ("training-overrun" in rules_of(judged(slower, counted, parent="track_pocket"))) == overrun
    own_cap = in_json(track="track_non_record_16mb", train_seconds_cap=120.0)
    assert "training-overrun" in rules_of(judged(own_cap, parent="track_non_record_16mb"))


def test_a_folder_on_disk_is_judged_as_one_in_memory(tmp_path):
    folder = write(tmp_path / TRACK / NAME)
    verdict = judge_path(folder)
    assert (verdict.exit_code, verdict.findings) == (0, judged().findings)


def test_what_is_no_folder(tmp_path):
    for path in (tmp_path / "none", write(tmp_path, {"a.txt": b"x"}) / "a.txt", Path("a\0b")):
        verdict = judge_path(path)
        assert (verdict.exit_code, verdict.readable) == (3, False)
    assert judge_path(write(tmp_path / "empty", {".keep": b""})).exit_code == 2


def test_links_and_pipes_are_neither_followed_nor_read(tmp_path):
    secret = write(tmp_path, {"secret.py": b"open('fineweb_val_*')"}) / "secret.py"
    folder = write(tmp_path / TRACK / NAME)
    (folder / "helper.py").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.log").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "train_pipe.log")
    read = read_folder(folder)
    assert {name: file.problem for name, file in read.files.items() if file.problem} == {
        "helper.py": "a link, which is not followed",
        "loop": "a link, which is not followed",
        "gone.log": "a link, which is not followed",
        "train_pipe.log": "neither a file nor a folder",
    }
    assert rules_of(judge_folder(read), "doubtful") == {"folder-problem"}


def test_names_that_no_encoding_explains(tmp_path):
    folder = write(tmp_path / TRACK / NAME)
    (folder / os.fsdecode(b"run \xff\xfe.log")).write_bytes(b"\x00\xff" * 40)
    (folder / "a\nb\x1b[31m.log").write_bytes(b"seed: 3")
    verdict = judge_path(folder)
    assert all(str(finding).isprintable() for finding in verdict.findings)
    assert "log-empty" in rules_of(verdict)


def test_more_than_anybody_wants_to_read(tmp_path, monkeypatch):
    folder = write(tmp_path / TRACK / NAME)
    log = clean_files()["train_seed42.log"]
    (folder / "train_seed42.log").write_bytes(log[:400] + b"\n" + b"x" * 9 * MAX_TEXT_BYTES + b"\n" + log[400:])
    assert len(read_folder(folder).files["train_seed42.log"].data) <= MAX_TEXT_BYTES + 1
    assert judge_path(folder).exit_code == 0
    for depth in range(8):
        write(folder / "/".join("d" * (depth + 1)), {"x.txt": b""})
    assert "more than 6 deep" in " ".join(read_folder(folder).problems)
    monkeypatch.setattr("records.judge.folder.MAX_FILES", 5)
    assert len(read_folder(folder).files) == 5


def test_helpers_are_judged_with_the_script():
    helper = "def lookup(counts, context, y):\n    key = (context * 36313) ^ y\n    return counts[key]\n"
    imported = in_script("import glob\n", "import glob\nimport ngram.tables\n")
    named = in_script("import glob\n", "import glob\n\nfrom ngram import tables\n")
    for use in (imported, named):
        verdict = judged(use, with_file("ngram/tables.py", helper), with_file("ngram/__init__.py", ""))
        found = next(finding for finding in verdict.findings if finding.rule == "target-in-key")
        assert found.evidence == "ngram/tables.py:3"
    unused = judged(with_file("ngram/tables.py", helper))
    assert "target-in-key" not in rules_of(unused)


def test_a_readable_twin_counts_for_nothing():
    verdict = judged(with_file("train_gpt_readable.py", SCRIPT + "\n\nimport requests\nrequests.get('x')\n"))
    assert verdict.exit_code == 0
    assert not {"helpers-uncounted", "network"} & rules_of(verdict)


def test_logs_in_folders_and_under_other_names():
    files = clean_files()
    for index, seed in enumerate(SEEDS):
        files[f"logs/run {index}/seed_{seed}.txt"] = files.pop(f"train_seed{seed}.log")
    verdict = judge_folder(folder_of(files, NAME, TRACK))
    assert verdict.exit_code == 0
    assert "folder-name" in rules_of(verdict)


def test_one_log_of_a_run_that_never_ended():
    cut = clean_files()["train_seed42.log"].decode().partition("Serialized")[0]
    verdict = judged(with_file("train_seed42.log", cut), without("train_seed1337.log", "train_seed2024.log"))
    assert {"seeds-disagree"} <= rules_of(verdict, "doubtful")


def test_code_after_a_newer_python_and_code_without_names():
    newer = in_script('print(f"sliding val_loss', 'print(f"{settings.__dict__["seed"]}")\n    print(f"sliding val_loss')
    assert judged(newer).exit_code == 0
    short = "\n".join(f"a{n % 10} = b{n % 10} + c{n % 10}" for n in range(300))
    assert "code-minified" in rules_of(judged(in_script("BOS = 1\n", f"BOS = 1\n{short}\n")))


def test_a_script_that_nests_without_end():
    deep = "x = " + "(" * 150 + "1" + ")" * 150 + "\n" + "y = 1" + " + 1" * 3_000 + "\n"
    assert judged(in_script("BOS = 1\n", f"BOS = 1\n{deep}")).exit_code in (0, 1, 2)
    assert judged(with_file("train_gpt.py", "x = " + "-" * 100_000 + "1\n")).exit_code == 2


def test_more_code_than_anybody_wants_to_read():
    verdict = judged(in_script("BOS = 1\n", "BOS = 1\n" + "x = 1\n" * 200_000))
    assert "payload-opaque" in rules_of(verdict, "doubtful")


def test_a_run_of_ours_is_clean(run_tiny, workplace):
    run_tiny("demo", "tiny")
    folder = next((workplace / "records").glob("*/*"))
    verdict = judge_path(folder)
    assert verdict.exit_code == 0, [str(finding) for finding in verdict.findings]
