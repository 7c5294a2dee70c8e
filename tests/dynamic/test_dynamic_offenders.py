"""Every way to cheat that shows in a run is caught under its own name, and what is clean is not."""

import pytest
from dynamic.stranger import CLEAN, make_stranger, rules_of, verify_stranger

SEVERITY = {"document-leak": "doubtful", "chunk-dependent": "doubtful", "not-repeatable": "doubtful"}
OFFENDERS = [
    ("TargetInKey", "target-flip"),
    ("UnnormalisedBlend", "normalisation"),
    ("OracleExpert", "target-flip"),
    ("TiltGate", "target-flip"),
    ("Peek", "target-flip"),
    ("LatePeek", "target-flip"),
    ("Slot", "causality"),
    ("UpdateFirst", "score-before-update"),
    ("TwoPass", "two-pass"),
    ("SilentAdaptation", "chunk-dependent"),
    ("ByteMixture", "normalisation"),
    ("BosLeak", "document-leak"),
    ("Noise", "not-repeatable"),
    ("NotANumber", "normalisation"),
    ("OneNumberEach", "scorer-broken"),
    ("Broken", "scorer-broken"),
    ("Leaver", "scorer-broken"),
    ("Caller", "network"),
    ("TrainReader", "train-shard-read"),
    ("TrainSearcher", "train-shard-read"),
    ("ValidationReader", "validation-read"),
    ("OutsideReader", "file-outside"),
    ("OutsideWriter", "file-outside"),
    ("Hoarder", "artifact-changed"),
]
# What each of them may break besides: everything else would be a false alarm.
FOLLOWS = {
    "UpdateFirst": {"target-flip", "causality"},
    "Slot": {"target-flip", "score-before-update"},
    "TargetInKey": {"score-before-update"},
    "OracleExpert": {"score-before-update"},
    "TiltGate": {"score-before-update"},
    "Peek": {"score-before-update", "chunk-dependent"},
    "NotANumber": {"chunk-dependent"},
}


@pytest.mark.parametrize("scorer", CLEAN)
def test_a_clean_scorer_is_clean(scorer, tmp_path, tiny_data):
    verification = verify_stranger(make_stranger(tmp_path / "record", tiny_data, scorer), tiny_data, scorer)
    assert rules_of(verification) == set(), verification.lines()
    assert verification.verdict.exit_code == 0
    assert {probe.name for probe in verification.probes if probe.held is False} == set()
    told = next(probe for probe in verification.probes if probe.name == "re-score")
    assert told.held and "as a stream" in told.measured


@pytest.mark.parametrize("scorer, rule", OFFENDERS)
def test_an_offender_is_caught_under_its_name(scorer, rule, tmp_path, tiny_data):
    # A budget below the split: the score is not repeated, so that nothing but the conduct counts.
    record = make_stranger(tmp_path / "record", tiny_data, scorer, val_loss=None)
    verification = verify_stranger(record, tiny_data, scorer, tokens=1600)
    rules = rules_of(verification)
    assert rule in rules, verification.lines()
    assert rules <= {rule} | FOLLOWS.get(scorer, set()), verification.lines()
    severity = SEVERITY.get(rule, "invalid")
    assert verification.verdict.exit_code == (2 if severity == "invalid" or len(rules) > 1 else 1)
    finding = next(finding for finding in verification.verdict.findings if finding.rule == rule)
    assert finding.severity == severity and finding.message and finding.evidence


def test_a_scorer_that_sleeps_and_one_that_hoards_memory_are_ended(tmp_path, tiny_data):
    record = make_stranger(tmp_path / "record", tiny_data, "Sleeper", val_loss=None)
    slow = verify_stranger(record, tiny_data, "Sleeper", seconds=1.5, tokens=1600)
    assert rules_of(slow) == {"time-limit"} and slow.seconds < 20
    hungry = verify_stranger(record, tiny_data, "Hungry", memory=1 << 30, tokens=1600)
    assert rules_of(hungry) == {"memory-limit"}


def test_a_program_that_is_started_is_told_and_no_offence(tmp_path, tiny_data):
    record = make_stranger(tmp_path / "record", tiny_data, "Starter", val_loss=None)
    verification = verify_stranger(record, tiny_data, "Starter", tokens=1600)
    assert rules_of(verification) == set()
    assert "process-started" in {finding.rule for finding in verification.verdict.findings}
