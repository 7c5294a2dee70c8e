"""What the claims and the data folder alone give away, the ends of the command, and a machine without namespaces."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dynamic import offenders
from dynamic.stranger import make_stranger, rules_of, verify_stranger
from tiny_runs import ROOT, command

from data.bytecount import ByteTable
from data.dataset import open_dataset
from data.shards import read_tokens
from data.tokenizer import load_tokenizer
from records.dynamic import sandbox
from records.dynamic.claimed import ClaimedScore, read_claimed
from records.dynamic.rescoring import bytes_probe, coverage_probe, rescore_probe
from records.dynamic.rules import DYNAMIC_RULES, with_dynamic_rules
from records.dynamic.texts import open_judged_text, shard_bytes
from runtime.errors import UserError


@pytest.fixture
def own_data(tmp_path: Path, tiny_data: Path) -> Path:
    """A copy of the tiny data set to change."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def test_the_judge_counts_tokens_and_bytes_as_the_pipeline_does(tiny_data):
    text, dataset = open_judged_text(tiny_data), open_dataset(tiny_data, 320)
    tokens = read_tokens(dataset.val_paths, 320)
    assert (text.tokens == tokens.numpy()).all()
    charged = ByteTable.from_tokenizer(load_tokenizer(dataset.tokenizer_path), 320).count(tokens[1:], tokens[:-1])
    assert text.decoded_bytes() == int(charged.sum())
    for stop in (1, 7, 500, len(tokens) - 1):
        assert text.decoded_bytes(stop) == int(charged[:stop].sum())


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 1026])
def test_a_validation_shard_that_is_none_is_refused(damage, own_data):
    next(own_data.glob("*_val_*.bin")).write_bytes(damage)
    with pytest.raises(UserError, match="must be a shard: header, then the tokens"):
        open_judged_text(own_data)


def test_a_token_beyond_the_tokenizer_and_a_missing_split_are_refused(own_data):
    shard = next(own_data.glob("*_val_*.bin"))
    shard.write_bytes(shard_bytes(np.array([1, 320])))
    with pytest.raises(UserError, match="all below the tokenizer's 320, got 2 up to 320"):
        open_judged_text(own_data)
    shard.unlink()
    with pytest.raises(UserError, match="--data must be a folder with validation shards"):
        open_judged_text(own_data)


@pytest.mark.parametrize(
    "tokens, severity", [(0, None), (-20, "note"), (-32, "invalid"), (-1396, "invalid"), (1, "invalid")]
)
def test_every_target_counts_once(tokens, severity, tiny_data):
    text = open_judged_text(tiny_data)
    probe = coverage_probe(text, {"claimed": text.num_targets + tokens, "again": None}, window=32)
    assert [finding.severity for finding in probe.findings] == ([severity] if severity else [])
    assert all(finding.rule == "coverage" for finding in probe.findings)


@pytest.mark.parametrize(
    "ratio, severity", [(1.0, None), (1.0001, "note"), (1.1746, "invalid"), (1.0413, "invalid"), (0.5, "invalid")]
)
def test_other_bytes_than_the_texts_are_found(ratio, severity, tiny_data):
    text = open_judged_text(tiny_data)
    probe = bytes_probe(text, None, {"claimed": text.decoded_bytes() * ratio})
    assert [(finding.rule, finding.severity) for finding in probe.findings] == (
        [("byte-accounting", severity)] if severity else []
    )


@pytest.mark.parametrize("apart, severity", [(0, None), (9e-7, None), (2e-6, "doubtful"), (1e-3, "invalid")])
def test_a_score_is_the_same_within_a_millionth(apart, severity):
    probe = rescore_probe(ClaimedScore(val_bpb=(1.25, 1.0)), 1.0 + apart, "again")
    assert [finding.severity for finding in probe.findings] == ([severity] if severity else [])


def test_claims_alone_betray_a_subset_and_a_wrong_table_of_bytes(tmp_path, tiny_data):
    record = make_stranger(tmp_path / "record", tiny_data, "Uniform", evaluation={"tokens": 1000, "bytes": 2200})
    assert "coverage" in rules_of(verify_stranger(record, tiny_data, "Uniform"))
    record = make_stranger(tmp_path / "wrong", tiny_data, "Uniform")
    tree = json.loads((record / "submission.json").read_text())
    (record / "submission.json").write_text(json.dumps(tree | {"val_bpb": tree["val_bpb"] / 1.1746}))
    assert rules_of(verify_stranger(record, tiny_data, "Uniform")) == {"byte-accounting", "rescore-differs"}


def test_validation_documents_in_training_are_found_by_manifest_and_by_text(tmp_path, own_data):
    record = make_stranger(tmp_path / "record", own_data, "Uniform")
    path = own_data / "manifest.json"
    manifest = json.loads(path.read_text())
    listed = manifest["val"]["documents"].pop(0)
    manifest["train"]["documents"].append(listed)
    path.write_text(json.dumps(manifest))
    # The manifest has it in one split only; the shards still hold it in the other.
    verification = verify_stranger(record, own_data, "Uniform")
    assert rules_of(verification) == {"leaked-documents"}
    manifest["val"]["documents"].append(listed)
    path.write_text(json.dumps(manifest))
    found = verify_stranger(record, own_data, "Uniform").verdict.findings
    assert any("equal sha256" in finding.evidence for finding in found)


def test_a_text_that_is_not_what_its_tokens_say_is_told(tmp_path, own_data):
    record = make_stranger(tmp_path / "record", own_data, "Uniform")
    path = own_data / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["val"]["totals"] |= {"changed_documents": 3, "raw_bytes": 7000}
    path.write_text(json.dumps(manifest))
    told = [
        finding
        for finding in verify_stranger(record, own_data, "Uniform").verdict.findings
        if finding.rule == "lossy-text"
    ]
    assert told and told[0].severity == "note" and "3 of" in told[0].message
    for content, word in ((None, "is not there"), ("{}", "version 1")):
        path.unlink() if content is None else path.write_text(content)
        verification = verify_stranger(record, own_data, "Uniform")
        finding = next(entry for entry in verification.verdict.findings if entry.rule == "manifest-missing")
        assert word in finding.evidence and verification.verdict.exit_code == 0


@pytest.mark.parametrize(
    "says, isolated", [("document-isolated evaluation", True), ("varlen packing", True), ("plain", False)]
)
def test_a_claim_of_isolation_is_read(says, isolated, tmp_path, tiny_data):
    record = make_stranger(tmp_path / "record", tiny_data, "Bigram", blurb=says)
    assert bool(read_claimed(record).isolation) == isolated
    rules = rules_of(verify_stranger(record, tiny_data, "Bigram"))
    assert rules == ({"document-leak"} if isolated else set())


def test_without_namespaces_the_hook_alone_refuses_and_says_so(tmp_path, tiny_data, monkeypatch):
    monkeypatch.setattr(sandbox, "_CONFINEMENTS", ())
    sandbox.confinement_of.cache_clear()
    try:
        record = make_stranger(tmp_path / "record", tiny_data, "Caller", val_loss=None)
        for scorer, rule in (("Caller", "network"), ("TrainReader", "train-shard-read"), ("Sleeper", "time-limit")):
            verification = verify_stranger(record, tiny_data, scorer, seconds=2, tokens=1600)
            assert rules_of(verification) == {rule}
            assert "sandbox" in {finding.rule for finding in verification.verdict.findings}
            assert "no namespace permitted" in verification.confinement
    finally:
        sandbox.confinement_of.cache_clear()


def test_the_command_ends_with_the_verdict(tmp_path, tiny_data):
    record = make_stranger(tmp_path / "record", tiny_data, "Uniform")
    arguments = ["-m", "records", "verify", str(record), "--data", str(tiny_data), "--tokens", "1600"]
    clean = command([*arguments, "--scorer", f"{offenders.__file__}:Uniform", "--json"], tmp_path)
    tree = json.loads(clean.stdout)
    assert (clean.returncode, tree["verdict"], tree["exit_code"]) == (0, "clean", 0)
    assert {"name", "held", "measured"} == set(tree["probes"][0])
    told = command([*arguments, "--scorer", f"{offenders.__file__}:Peek"], tmp_path)
    assert told.returncode == 2
    assert any(line.split()[:2] == ["invalid", "target-flip"] for line in told.stdout.splitlines())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"folder": "nowhere"}, "the claims of a record cannot be read"),
        ({"data": "nowhere"}, "--data must be a folder with validation shards"),
        ({"scorer": None}, "needs --scorer file.py:function"),
        ({"scorer": "nowhere.py:Uniform"}, "--scorer must be file.py:function with a file that is there"),
        ({"tokens": "3"}, "--tokens must be at least 1024, got 3; nearest 1024"),
        ({"artifact": "weights.pt"}, "a record is verified from its artifact, got none of weights.pt"),
    ],
)
def test_what_cannot_be_verified_ends_with_three_and_a_reason(change, message, tmp_path, tiny_data):
    record = make_stranger(tmp_path / "record", tiny_data, "Uniform")
    given = {"folder": str(record), "data": str(tiny_data), "scorer": f"{offenders.__file__}:Uniform"} | change
    words = [word for name, value in given.items() if name != "folder" and value for word in (f"--{name}", value)]
    ended = command(["-m", "records", "verify", given["folder"], *words], tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert message in ended.stdout and len(ended.stdout.splitlines()) == 2


def test_every_rule_has_a_sentence_and_is_planted_somewhere():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    assert {name for name in DYNAMIC_RULES if f'"{name}"' not in tests} <= {"rescore-missing", "documents-attended"}
    assert all(rule.sentence and rule.severity in ("note", "doubtful", "invalid") for rule in DYNAMIC_RULES.values())


def test_the_rules_in_the_readme_are_those_of_the_judge():
    text = (ROOT / "records" / "README.md").read_text(encoding="utf-8")
    assert with_dynamic_rules(text) == text
    with pytest.raises(UserError, match="the README must hold <!-- rules of verify"):
        with_dynamic_rules("# Records\n")
