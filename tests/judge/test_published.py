"""Published submissions, by the figures of their submission.json: what the judge says of each is what reviewers said.

The figures are facts from the records folders of openai/parameter-golf; texts are shortened.
"""

import json

import pytest
from judge.clean_record import rules_of

from records.judge.finding import Verdict
from records.judge.folder import folder_of
from records.judge.judge import judge_folder

WHO = {"author": "A", "github_id": "a", "name": "A run", "blurb": "A blurb"}


def seed_results(field: str, scores: dict[int, float], **others: object) -> dict:
    return {field: {str(seed): {"val_bpb": score, **others} for seed, score in scores.items()}}


PUBLISHED = {
    # 2026-03-17_NaiveBaseline, on the older export of the split.
    "baseline": (
        {
            "val_loss": 2.06035852,
            "val_bpb": 1.21687994,
            "bytes_total": 15863068,
            "bytes_code": 48140,
            "blurb": "SP-1024 9x512",
        },
        set(),
    ),
    # 2026-03-20_8L_PaidPrefix_SparseBlocks: below 16 MiB, above 16,000,000.
    "paid prefix": (
        {"val_loss": 1.75003626, "val_bpb": 1.03647005, "bytes_total": 16525754, "bytes_code": 83592},
        {"total-over-budget"},
    ),
    # 2026-03-19_WIP_PLACEHOLDER.
    "placeholder": (
        {"author": "YOUR_NAME", "val_loss": 0.0, "val_bpb": 0.0, "bytes_total": 0, "bytes_code": 0},
        {"score-missing", "placeholder", "bytes-missing"},
    ),
    # 2026-03-20_ComplexityMoE_PID.
    "pending": ({"val_bpb": "pending", "name": None}, {"score-missing", "field-missing", "bytes-missing"}),
    # 2026-03-20_CausalTTT_Int5MLP_BigramHash_SWA: a loss alone.
    "loss alone": ({"val_loss": 1.90684, "bytes_total": 15969964}, {"score-missing"}),
    # 2026-04-09_A2_Muon097_3Seed (#1514): seeds as an object, std_bpb.
    "#1514": (
        {
            **seed_results("seeds", {0: 1.07928348, 42: 1.07996676, 1234: 1.08024795}, bytes_total=15994604),
            "val_bpb": 1.07983273,
            "mean_bpb": 1.07983273,
            "std_bpb": 0.00049601,
            "bytes_total": 15994604,
        },
        set(),
    ),
    # 2026-04-22 MLPClip12 (#1769): the five lowest of seven seeds, disclosed.
    "#1769": (
        {
            **seed_results(
                "seed_results", {314: 1.06356801, 2025: 1.0641313, 777: 1.06466993, 1: 1.06509678, 1337: 1.06516558}
            ),
            "seeds": [314, 2025, 777, 1, 1337],
            "val_bpb": 1.06453,
            "val_bpb_std": 0.00068,
            "bytes_total": 15975561,
            "disclosure": {
                "note": "the 5 seeds with lowest val_bpb",
                "all_7_seeds": [1, 7, 314, 777, 1337, 2025, 9999],
            },
        },
        {"seeds-unreported", "seed-search"},
    ),
    # 2026-04-27 9HpStack (#1855): the deviation over n, sizes of the seeds.
    "#1855": (
        {
            **seed_results("seed_results", {42: 1.05989454, 0: 1.06124613, 1234: 1.06208695}, artifact_bytes=15907550),
            "seeds": [42, 0, 1234],
            "val_bpb": 1.06107587,
            "val_bpb_std": 0.00090,
            "comparison_baseline_bpb": 1.0810,
            "val_loss": 2.32202732,
            "artifact_bytes_max": 15907550,
            "bytes_total": 15907550,
        },
        set(),
    ),
    # 2026-04-29 SmearGateBOSFix (#1868): no total but those of the seeds.
    "#1868": (
        {
            **seed_results(
                "seed_results", {42: 1.06128183, 314: 1.06086831, 1234: 1.06220261}, artifact_bytes=15952690
            ),
            "seeds": [42, 314, 1234],
            "val_bpb": 1.06145,
            "val_bpb_std": 0.00068,
        },
        set(),
    ),
}


def verdict_of(fields: dict) -> Verdict:
    """The verdict on a folder with these claims, an innocent script, and no log: nobody publishes that in a test."""
    tree = {
        key: value for key, value in {**WHO, "date": "2026-04-20", "track": "10min_16mb", **fields}.items() if value
    }
    files = {
        "submission.json": json.dumps(tree | {key: fields[key] for key in fields if fields[key] == 0}).encode(),
        "train_gpt.py": b"tokenizer = 'fineweb_1024_bpe.model'\n",
        "README.md": b"# A run\n",
    }
    return judge_folder(folder_of(files, "2026-04-20_Run", "track_10min_16mb"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_submission(name):
    fields, expected = PUBLISHED[name]
    # No log is there, and where a submission names one seed only, none of three.
    assert rules_of(verdict_of(fields), "doubtful") - {"log-missing", "seeds-too-few"} == expected


def test_the_older_export_and_the_deviation_over_n_are_told():
    assert "bytes-other-split" in rules_of(verdict_of(PUBLISHED["baseline"][0]))
    assert "std-of-population" in rules_of(verdict_of(PUBLISHED["#1855"][0]))
