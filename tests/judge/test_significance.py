"""Both rules of significance: the organisers' published values, scipy's own tests, and what is refused."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from judge.clean_record import clean_files, in_json
from scipy import stats

from records.compare import compare_records, read_side
from records.significance import MARGIN_NATS, compare_seeds, one_sample_test, welch_test
from runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

# val_bpb of every seed, from the descriptions of the pull requests of openai/parameter-golf (and for #1868 from the
# compliance_rerun in its submission.json, for #1855 with the reproduction that okezue reports in its thread).
SEED_SCORES = {
    "#2135": [1.05679, 1.05611, 1.05662],
    "#2014": [1.05740567, 1.05730104, 1.05807084],
    "#1769": [1.06356801, 1.06413130, 1.06466993, 1.06509678, 1.06516558],
    "#1736": [1.06610, 1.06473, 1.06563],
    "#1514": [1.07928, 1.07997, 1.08025],
    "#1493": [1.0808, 1.0810, 1.0812],
    "#1855": [1.05989454, 1.06124613, 1.06208695, 1.05965, 1.06041, 1.06124],
    "#1868 rerun": [1.06083288, 1.06090748, 1.06248776],
}
PUBLISHED = [
    ("#2135", "#2014", "0.0138"),
    ("#1769", "#1736", "0.0625"),  # the leaderboard says 0.063
    ("#1514", "#1493", "0.0207"),
    ("#1855", "#1868 rerun", "0.1882"),  # and 0.188
]


@pytest.mark.parametrize(("new", "base", "p"), PUBLISHED)
def test_published_values_are_reproduced(new, base, p):
    test = welch_test(SEED_SCORES[new], SEED_SCORES[base])
    assert f"{test.p:.4f}" == p
    comparison = compare_seeds(SEED_SCORES[new], SEED_SCORES[base], margin=MARGIN_NATS / 2.19)
    assert comparison.passes_progression and not comparison.passes_written


def test_it_is_scipys_welch_and_one_sample_test():
    draw = random.Random(3)
    for _ in range(50):
        new = [draw.gauss(1.0, 0.001) for _ in range(draw.randint(2, 8))]
        base = [draw.gauss(1.001, 0.002) for _ in range(draw.randint(2, 8))]
        margin = draw.choice([0.0, 0.0005])
        known = stats.ttest_ind(new, [value - margin for value in base], equal_var=False, alternative="less")
        ours = welch_test(new, base, margin)
        assert (ours.p, ours.t, ours.degrees) == pytest.approx((known.pvalue, known.statistic, known.df), rel=1e-9)
        single = stats.ttest_1samp(new, 1.001 - margin, alternative="less")
        assert one_sample_test(new, 1.001, margin).p == pytest.approx(single.pvalue, rel=1e-9)


def test_the_written_rule_wants_the_margin():
    base = [2.0700, 2.0704, 2.0698]
    better = [value - 0.0080 for value in base]
    assert compare_seeds(better, base).passes_written
    barely = [value - 0.0052 for value in base]
    assert not compare_seeds(barely, base).passes_written
    assert compare_seeds(barely, base).passes_progression


@pytest.mark.parametrize(
    ("new", "base", "message"),
    [
        ([1.0], [1.0, 1.1], "at least 2 seeds a side, got 1 for new"),
        ([1.0, 1.1], [], "at least 2 seeds a side, got 0 for base"),
        ([1.0, 1.0, 1.0], [1.0, 1.1], "the seeds of new must differ, got 3 times 1.0"),
        ([1.0, 1.1], [1.1, 1.1], "the seeds of base must differ"),
        ([1.0, float("nan")], [1.1, 1.2], "the values of new must be finite numbers"),
    ],
)
def test_what_cannot_be_tested_is_refused(new, base, message):
    with pytest.raises(UserError, match=message):
        compare_seeds(new, base)


def test_fewer_than_three_are_told():
    assert compare_seeds([1.0, 1.1], [1.2, 1.3, 1.4]).remarks == ("new has 2 seeds, fewer than 3",)
    assert compare_seeds([1.0, 1.1, 1.2], [1.2, 1.3, 1.4]).remarks == ()


def write_record(folder: Path, **changes: object) -> Path:
    files = clean_files()
    in_json(**changes)(files)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_records_are_compared_in_nats(tmp_path):
    better = {str(s): {"val_loss": 2.780 + s / 1e4, "val_bpb": (2.780 + s / 1e4) / 2.583} for s in (1, 2, 3)}
    worse = {str(s): {"val_loss": 2.792 + s / 1e4, "val_bpb": (2.792 + s / 1e4) / 2.583} for s in (1, 2, 3)}
    new = write_record(tmp_path / "new", seed_results=better, seeds=[1, 2, 3])
    base = write_record(tmp_path / "base", seed_results=worse, seeds=[1, 2, 3])
    told = compare_records(read_side(str(new), "bpb"), read_side(str(base), "bpb"))
    assert "new - base  -0.012000 nats" in told
    assert "written rule      passes" in told and "progression rule  passes" in told


def test_records_of_different_tokenizers_are_compared_in_bits(tmp_path):
    other = {str(s): {"val_loss": 2.3 + s / 1e4, "val_bpb": (2.3 + s / 1e4) / 2.19} for s in (1, 2, 3)}
    new = write_record(tmp_path / "new", seed_results=other, seeds=[1, 2, 3])
    base = write_record(tmp_path / "base")
    told = compare_records(read_side(str(new), "bpb"), read_side(str(base), "bpb"))
    assert "the tokenizers differ" in told and "bits per byte, n = 3" in told


def test_a_record_without_seed_results_is_read_from_its_logs(tmp_path):
    base = write_record(tmp_path / "base", seed_results=None)
    assert sorted(read_side(str(base), "bpb").bits) == [1.0806, 1.081, 1.0815]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "1,2"], "a record is a folder: nowhere cannot be read"),
        (["1.0,1.1", "1,2,x"], "a record is a folder: 1,2,x cannot be read"),
        (["1.0-1.1", "1,2"], "numbers with commas between them, got '1.0-1.1'"),
        (["1.0", "1,2"], "at least 2 seeds a side, got 1 for new"),
    ],
)
def test_a_wrong_side_is_one_line(words, message):
    with pytest.raises(UserError, match=message):
        compare_records(read_side(words[0], "bpb"), read_side(words[1], "bpb"))


def test_the_command():
    words = [",".join(map(str, SEED_SCORES[name])) for name in ("#2135", "#2014")]
    command = [sys.executable, "-m", "records", "compare", *words, "--bytes-per-token", "3.1572"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "p = 0.0138" in done.stdout and "fails   p = 0.98" in done.stdout
    assert "--bytes-per-token" in compare_records(read_side(words[0], "bpb"), read_side(words[1], "bpb"))
