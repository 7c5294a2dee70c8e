"""Our own records under the dynamic judge: a tiny one passes, and one that claims what is not so does not."""

import json
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dynamic.stranger import rules_of
from tiny_runs import command, tiny

from eval.sliding import plan_windows
from records.dynamic import command_stage
from records.dynamic.claimed import read_claimed
from records.dynamic.command_stage import judge_command
from records.dynamic.rescoring import CommandScore
from records.dynamic.sandbox import SandboxLimits
from records.dynamic.stage import Case, ShortText
from records.dynamic.texts import open_judged_text
from records.dynamic.verify import VerifyOptions, verify_record
from records.new import new_record

BUDGET = VerifyOptions(tokens=2048)


@pytest.fixture(scope="module")
def tiny_record(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The record of ten steps of the demo at a size of seconds."""
    place = tmp_path_factory.mktemp("own")
    # Windows that do not overlap: overlapping ones would be scored both ways.
    arguments = ["-m", "train_gpt", "demo", *tiny(eval__stride=128)]
    done = command(arguments, place, DATA_PATH=str(tiny_data), RUN_ID="own")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(place / "records", ignore_errors=True)
    return new_record([place / "runs" / "own"], place / "records")


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


@pytest.mark.parametrize(
    "tokens, size, rules",
    [
        (1.0, 1.0, set()),
        (0.5, 0.5, {"coverage", "byte-accounting"}),
        (1.0, 1.1746, {"byte-accounting"}),
        (2, 1, {"coverage"}),
    ],
)
def test_figures_of_the_command_are_held_against_the_text(tokens, size, rules, tiny_record, tiny_data, monkeypatch):
    asked = []

    def said(sandbox, folder, artifact, data, plain_window=None) -> CommandScore:
        asked.append((data.name, plain_window))
        text = open_judged_text(tiny_data)
        count, size_of_text = int(text.num_targets * tokens), round(text.decoded_bytes() * size)
        bpb = read_claimed(tiny_record).val_bpb[0] + (0.1 if plain_window else 0)
        return CommandScore(bpb, bpb * math.log(2) * size_of_text / count, count, size_of_text, 1.0)

    monkeypatch.setattr(command_stage, "run_command_in", said)
    claimed = replace(read_claimed(tiny_record), window=128, stride=16)
    case = Case(tiny_record, tiny_record / "model.bin", claimed, open_judged_text(tiny_data), "", 2048, SandboxLimits())
    with tempfile.TemporaryDirectory() as scratch:
        found = [finding for probe in judge_command(case, Path(scratch)) for finding in probe.findings]
    assert {finding.rule for finding in found} == rules, found
    assert asked == [("data", None), ("data", 128), ("short", None)]
    assert case.figures["plain_bpb"] == pytest.approx(case.figures["rescored_bpb"] + 0.1)


@pytest.mark.parametrize("targets, window, stride", [(32, 32, 32), (40, 32, 4), (40, 32, 8), (96, 32, 32), (20, 32, 8)])
def test_the_judge_cuts_windows_as_the_evaluator_does(targets, window, stride):
    short = ShortText(np.zeros(targets + 1, dtype=np.uint16), window, stride, val_loss=1.0)
    planned = plan_windows(targets, window, stride)
    assert short.spans() == [(entry.start, entry.start + entry.length, entry.scored) for entry in planned]


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
