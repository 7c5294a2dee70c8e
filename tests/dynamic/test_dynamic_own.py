"""Our own records under the dynamic judge: a tiny one passes, and one that claims what is not so does not."""

import json
import math
import shutil
from pathlib import Path

import pytest
from dynamic.stranger import rules_of
from tiny_runs import command, tiny

from records.dynamic.verify import VerifyOptions, verify_record
from records.new import new_record

BUDGET = VerifyOptions(tokens=2048)


@pytest.fixture(scope="module")
def tiny_record(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The record of ten steps of the demo at a size of seconds."""
    place = tmp_path_factory.mktemp("own")
    done = command(["-m", "train_gpt", "demo", *tiny()], place, DATA_PATH=str(tiny_data), RUN_ID="own")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(place / "records", ignore_errors=True)
    record = new_record([place / "runs" / "own"], place / "records")
    if not (record / "train_gpt_readable.py").exists():
        shutil.copyfile(place / "runs" / "own" / "train_gpt_readable.py", record / "train_gpt_readable.py")
    return record


@pytest.fixture
def own_record(tiny_record: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(tiny_record, tmp_path / tiny_record.name))


def test_a_record_of_ours_is_clean(tiny_record, tiny_data):
    verification = verify_record(tiny_record, tiny_data, BUDGET)
    assert rules_of(verification) == set(), verification.lines()
    assert verification.verdict.exit_code == 0
    measured = {probe.name: probe.measured for probe in verification.probes if probe.held}
    wanted = {"re-score", "coverage", "bytes", "target flip", "causality", "score before update", "chunks"}
    assert wanted | {"scorer is the command", "normalisation", "held-out documents"} <= set(measured)
    figures = verification.figures
    assert figures["rescored_bpb"] == pytest.approx(figures["claimed_bpb"], abs=1e-6)
    assert [entry["from"] for entry in figures["score_by_position"]][:3] == [1, 2, 4]


def test_false_claims_another_twin_and_a_helper_are_found_each(own_record, tiny_data):
    _claim_less(own_record / "submission.json")
    twin = own_record / "train_gpt_readable.py"
    assert "self.config.softcap" in twin.read_text()
    twin.write_text(twin.read_text().replace("self.config.softcap", "self.config.softcap * 0.5"))
    script, helper = own_record / "train_gpt.py", own_record / "tables.txt"
    helper.write_text("what is not counted")
    # The first line may tell the coding of the file.
    first, rest = script.read_bytes().split(b"\n", 1)
    script.write_bytes(b"\n".join([first, f"open({str(helper)!r}).close()".encode(), rest]))
    verification = verify_record(own_record, tiny_data, BUDGET)
    wanted = {"rescore-differs", "artifact-differs", "other-scorer", "file-outside"}
    assert rules_of(verification) == wanted, verification.lines()
    assert verification.verdict.exit_code == 2


def test_a_damaged_artifact_is_one_finding_and_no_traceback(own_record, tiny_data):
    artifact = own_record / "model.bin"
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    verification = verify_record(own_record, tiny_data, BUDGET)
    assert rules_of(verification) == {"artifact-differs", "scorer-broken"}, verification.lines()
    assert any("SHA-256" in finding.message for finding in verification.verdict.findings)


def _claim_less(path: Path) -> None:
    """One per cent off loss and score, all figures in agreement, and the SHA-256 of another artifact."""
    tree = json.loads(path.read_text())
    seed = tree["seed_results"][str(tree["seeds"][0])]
    for held in (tree, seed):
        held["val_loss"], held["val_bpb"] = held["val_loss"] * 0.99, held["val_bpb"] * 0.99
    seed["artifact_sha256"] = "0" * 64
    bits = tree["val_loss"] / math.log(2)
    tree["evaluation"]["implied_bytes"] = tree["evaluation"]["tokens"] * bits / tree["val_bpb"]
    path.write_text(json.dumps(tree))
