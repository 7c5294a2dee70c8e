"""The report: one page without outside resources, whole for a full record, honest about what a poor one lacks."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from judge.clean_record import clean_files, loss_of
from tiny_runs import command

from records.picture.charts import interval_text, t_half_width
from records.picture.facts import read_picture
from records.picture.report import write_report
from runtime.errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"
LEDGER = {
    "entries": [
        {
            "group": f"layers.*.part{number}.weight",
            "kind": "int6",
            "elements": 800 * number,
            "data": 500 * number,
            "scales": 9,
        }
        for number in range(1, 14)
    ],
    "header": 30,
    "checksum": 32,
    "code": {"train_gpt.py": 900},
    "budget": 16_000_000,
    "model_total": 45_679,
    "code_total": 900,
    "total": 46_579,
}
OUR_LOG = """recipe demo (fingerprint 00) seed:42 run:runs/demo
step:1/9 train_loss:6.9 train_time:500ms step_avg:500.00ms
step:9/9 train_loss:3.1 train_time:4500ms step_avg:500.00ms
step:9/9 val_loss:3.2 val_bpb:1.11 train_time:4500ms step_avg:500.00ms weights:last_weights
step:9/9 val_loss:3.1 val_bpb:1.10 train_time:4500ms step_avg:500.00ms weights:average_of_9
sliding window=512 stride=64 val_loss:3.0 val_bpb:1.0806 tokens:9 bytes:9 implied_bytes:9.0 eval_time:9ms
final_zstd22_roundtrip val_loss:3.0 val_bpb:1.0806 eval_time:9ms
final_zstd22_roundtrip_exact val_loss:3.00000000 val_bpb:1.08060000
"""
VERIFICATION = {
    "verdict": "clean",
    "plain_bpb": 1.0911,
    "probes": [{"name": "coverage", "held": True, "measured": "all of them"}],
    "findings": [{"severity": "note", "rule": "documents-attended", "message": "it is", "evidence": "token 9"}],
    "score_by_position": [
        {"from": 1, "to": 1, "nats": 4.0, "error": 0.1, "windows": 8},
        {"from": 2, "to": 3, "nats": 3.5, "error": 0.1, "windows": 8},
    ],
}


class Page(HTMLParser):
    """Images, texts and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images, self.words, self.resources, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        held = dict(attributes)
        if tag == "img":
            self.images.append(held)
        self.resources += [held[name] for name in ("src", "href", "srcset", "data") if name in held]
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def make_record(folder: Path, **files: object) -> Path:
    """The judge's clean record on disk, with more files or (None) fewer."""
    folder.mkdir(parents=True)
    for name, data in (clean_files() | files).items():
        if data is not None:
            (folder / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return folder


def full_record(folder: Path) -> Path:
    """A record with everything that a report can show."""
    logs = {"train_seed42.log": OUR_LOG.encode()}
    return make_record(folder, **logs, **{"ledger.json": LEDGER, "verify.json": VERIFICATION})


def test_a_page_needs_nothing_from_outside_and_its_figures_lie_beside_it(tmp_path):
    path = write_report([full_record(tmp_path / "2026-04-20_CleanBase")], tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and '<meta name="viewport"' in text and '<html lang="en">' in text
    assert all(resource.startswith("data:image/png;base64,") for resource in page.resources)
    assert not re.search(r"https?://|@import|url\(", text)
    drawn = {base64.b64decode(image["src"].partition(",")[2]) for image in page.images}
    beside = {file.read_bytes() for file in path.parent.glob("*.png")}
    assert len(drawn) == 7 and drawn == beside and all(data.startswith(PNG) for data in drawn)
    assert all(len(image["alt"]) > 20 for image in page.images)


def test_a_page_tells_the_figures_the_stages_and_the_findings(tmp_path):
    page = Page(write_report([full_record(tmp_path / "record")], tmp_path / "out").read_text(encoding="utf-8"))
    for words in (
        "Clean base, sp8192",
        "1.0810 ± 0.0011",
        f"1337 {loss_of(1.0810):.4f} 1.0810",
        "46,579 bytes in all, 0.3% of the 16,000,000 allowed",
        "4.000 nats after 1 token",
        "From reading ( records check ):",
        "From running ( records verify ): clean",
        "documents-attended",
        "Tests that held or stayed open: 1",
    ):
        assert words in page.text, words


def test_the_stages_of_a_score_are_told_apart(tmp_path):
    facts = read_picture(make_record(tmp_path / "ours", **_only(OUR_LOG), **{"verify.json": VERIFICATION}))
    assert facts.score_stages() == [
        ("float, last weights, plain windows", 1.11),
        ("float, average of 9, plain windows", 1.10),
        ("from the bytes, plain windows", 1.0911),
        ("from the bytes, sliding window=512 stride=64", 1.0806),
    ]
    streamed = OUR_LOG.replace("sliding window=512 stride=64", "stream chunk=512 documents=restart")
    stages = read_picture(make_record(tmp_path / "streamed", **_only(streamed))).score_stages()
    assert stages[-1] == ("from the bytes, stream chunk=512 documents=restart", 1.0806)
    strangers = read_picture(make_record(tmp_path / "strangers")).score_stages()
    assert strangers[-1][1] == 1.081 and not any("from the bytes" in label for label, _ in strangers)


def test_the_same_records_give_the_same_page(tmp_path):
    record = full_record(tmp_path / "record")
    pages = [write_report([record], tmp_path / name).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_several_records_share_a_page_and_an_overview(tmp_path):
    folders = [full_record(tmp_path / "one"), make_record(tmp_path / "two")]
    path = write_report(folders, tmp_path / "out")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.startswith("2 records: report") and page.text.count("What the judge says") == 2
    assert {"all-seeds.png", "1-loss-steps.png", "2-loss-steps.png"} <= {
        file.name for file in path.parent.glob("*.png")
    }


def test_a_poor_record_says_what_it_lacks(tmp_path):
    record = make_record(tmp_path / "record", **_only(None), **{"submission.json": b"{}"})
    page = Page(write_report([record], tmp_path / "out").read_text(encoding="utf-8"))
    assert page.images == []
    for words in (
        "has no ledger.json",
        "No log tells a score",
        "No score of a seed is claimed",
        "Not measured. python",
    ):
        assert words in page.text, words


@pytest.mark.parametrize("name", ["submission.json", "ledger.json", "train_seed42.log"])
@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"step:1/9 train_loss:nan\n"])
def test_a_strange_file_is_no_traceback(name, data, tmp_path):
    record = make_record(tmp_path / "record", **{name: data})
    Page(write_report([record], tmp_path / "out").read_text(encoding="utf-8"))


@pytest.mark.parametrize("tree", [{}, {"probes": 3, "findings": [1], "score_by_position": None}, {"probes": [{}]}])
def test_a_strange_verification_is_no_traceback(tree, tmp_path):
    record = make_record(tmp_path / "record", **{"verify.json": tree})
    Page(write_report([record], tmp_path / "out").read_text(encoding="utf-8"))


def test_what_a_stranger_writes_is_text_and_no_markup(tmp_path):
    claims = json.loads(clean_files()["submission.json"])
    claims |= {"name": "<script>alert(1)</script>", "blurb": '"><img src=x onerror=y>', "hardware": "a\x1b[31m\nb"}
    record = make_record(tmp_path / "record", **{"submission.json": claims})
    page = Page(write_report([record], tmp_path / "out").read_text(encoding="utf-8"))
    assert "<script>alert(1)</script>" in page.text and "a?[31m?b" in page.text
    assert not any(image["src"] == "x" for image in page.images)


def test_the_interval_of_the_seeds_is_the_t_interval():
    # scipy.stats.t.interval(0.95, 2, loc=2, scale=1 / 3**0.5)
    assert t_half_width([1.0, 2.0, 3.0]) == pytest.approx(2.484137712)
    assert interval_text([1.5]) == "1.5000 (n = 1, no interval)"


def test_mistakes_are_told_in_a_line(tmp_path):
    with pytest.raises(UserError, match="report takes at least 1 record folder, got none"):
        write_report([], tmp_path)
    with pytest.raises(UserError, match="a record is a folder: .*nowhere cannot be read"):
        write_report([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(UserError, match="--verified takes one file a folder, 1, got 2"):
        write_report([make_record(tmp_path / "record")], tmp_path, [tmp_path, tmp_path])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="must be what `python -m records verify --json` printed, got '\\[\\]'"):
        write_report([tmp_path / "record"], tmp_path, [tmp_path / "list.json"])


def test_the_command_prints_where_the_page_lies(tmp_path):
    make_record(tmp_path / "record")
    done = command(["-m", "records", "report", "record", "--out", "pages"], tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "pages/report.html"), done.stderr
    assert (tmp_path / "pages" / "report.html").stat().st_size > 50_000


def _only(log: str | None) -> dict[str, bytes | None]:
    """The logs of the clean record taken away, and this one put there."""
    taken = {name: None for name in clean_files() if name.endswith(".log")}
    return taken | ({"train.log": log.encode()} if log else {})
