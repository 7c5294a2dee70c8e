"""Every planted offence is found under its rule, and nothing that is allowed weighs more than a note."""

import pytest
from judge.clean_record import NAME, TRACK, clean_files, judged, rules_of
from judge.offenders import CODE_CASES, FIGURE_CASES, Case

from records.judge.coverage import CLASSES
from records.judge.rules import RULES

CASES = [pytest.param(case, id=f"{case.rule}-{index}") for index, case in enumerate([*CODE_CASES, *FIGURE_CASES])]


def test_the_clean_record_is_clean():
    verdict = judged()
    assert verdict.exit_code == 0, [str(finding) for finding in verdict.findings]


@pytest.mark.parametrize("case", CASES)
def test_an_offence_is_found(case: Case):
    verdict = judged(*case.offence)
    found = [finding for finding in verdict.findings if finding.rule == case.rule]
    assert found, [str(finding) for finding in verdict.findings]
    assert any(finding.severity != "note" for finding in found) != case.note


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].allowed])
def test_what_looks_alike_is_not(case: Case):
    verdict = judged(*case.allowed)
    assert verdict.exit_code == 0, [str(finding) for finding in verdict.findings]


def test_code_is_evidence_and_says_how_sure_it_is():
    for case in CODE_CASES:
        for finding in judged(*case.offence).findings:
            if finding.rule == case.rule and RULES[case.rule].family.startswith("code"):
                assert finding.severity != "invalid"
                assert finding.confidence == "certain" or finding.why
                assert ":" in finding.evidence


def test_every_class_that_reading_decides_has_a_planted_offence():
    planted = {case.rule for case in (*CODE_CASES, *FIGURE_CASES)}
    for entry in CLASSES:
        assert not entry.static or planted & set(entry.static), entry.name


def test_rules_without_a_planted_offence_are_known():
    planted = {case.rule for case in (*CODE_CASES, *FIGURE_CASES)}
    # Notes of names and spelling, and those of test_strange.py.
    others = {
        *("folder-problem", "key-variant", "date-disagrees", "folder-name", "track-unknown", "clock-missing"),
        *("significance", "validation-glob", "code-approximate", "code-minified", "rule-gave-up"),
    }
    assert set(RULES) - planted == others


def test_the_clean_record_is_what_it_says():
    assert set(clean_files()) >= {"train_gpt.py", "submission.json", "README.md"}
    assert rules_of(judged(name=NAME, parent=TRACK), "doubtful") == set()
