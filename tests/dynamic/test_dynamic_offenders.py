"""Every way to cheat that shows in a run is caught under its own name, and what is clean is not."""

import numpy as np
import pytest
from dynamic.stranger import CLEAN, make_stranger, rules_of, verify_stranger

from records.dynamic.changes import could_be_rounding

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


def test_what_low_precision_rounds_is_told_and_no_offence(tmp_path, tiny_data):
    record = make_stranger(tmp_path / "record", tiny_data, "Coarse", val_loss=None)
    verification = verify_stranger(record, tiny_data, "Coarse", tokens=1600)
    assert rules_of(verification) == set(), verification.lines()
    notes = {finding.rule: finding for finding in verification.verdict.findings}
    assert {"score-before-update", "chunk-dependent"} <= set(notes), verification.lines()
    assert "as low precision rounds" in notes["chunk-dependent"].message


@pytest.mark.parametrize(
    "moved, held",
    [
        (lambda draw, rows: draw.uniform(-0.03, 0.03, rows.shape), True),
        # A nat, of what has next to no probability.
        (lambda draw, rows: np.where(np.arange(64) * (rows < -9) > 0, draw.uniform(-1, 1, rows.shape), 0.0), True),
        (lambda draw, rows: draw.uniform(-0.3, 0.3, rows.shape), False),
        # Every target a little likelier, as those are that a scorer has seen.
        (lambda draw, rows: np.where(np.arange(64) == 0, 0.02, 0.0), False),
        # One target that it knows.
        (lambda draw, rows: np.where(np.arange(rows.size).reshape(rows.shape) == 0, 1.0, 0.0), False),
    ],
)
def test_low_precision_explains_what_takes_no_sides_and_moves_little(moved, held):
    draw = np.random.default_rng(0)
    weights = 3 * draw.standard_normal((200, 64))
    weights[:, 0] = 0.0  # the target
    rows = weights - np.log(np.exp(weights).sum(axis=1, keepdims=True))
    others = rows + moved(draw, rows)
    others -= np.log(np.exp(others).sum(axis=1, keepdims=True))
    targets = np.zeros(200, dtype=np.int64)
    assert could_be_rounding(rows, others, targets) is held
    assert not could_be_rounding(rows, np.where(rows == rows.max(), np.nan, rows), targets)


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
