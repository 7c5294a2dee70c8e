"""Building a data set, proving it, opening it; and that a failed build leaves everything as it was."""

import os
import random
import re
import subprocess
import sys

import pytest

from data.build import TOKENIZER_NAME, build_dataset
from data.check import check_dataset
from data.corpus import Document
from data.dataset import open_dataset
from data.manifest import MANIFEST_NAME, BuildOptions, ShardEntry, read_manifest, write_manifest
from data.shards import open_shard, read_tokens, write_shard
from data.tokenizer import load_tokenizer
from runtime.errors import UserError
from runtime.files import sha256_of

VOCAB = 320
OPTIONS = BuildOptions(corpus="tiny", source="test", vocab_size=VOCAB, val_one_in=5)
WORDS = ["the", "of", "and", "state", "people", "congress", "treasury", "war", "peace", "law"]


def _documents(count=40, seed=0):
    chance = random.Random(seed)
    texts = [" ".join(chance.choices(WORDS, k=chance.randrange(5, 60))) for _ in range(count)]
    return [Document(f"doc-{number}", f"{text}.\n\nEnd  é {number}\n") for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A sound data set of 40 documents; tests that spoil it work on a copy."""
    return build_dataset(_documents(), tmp_path_factory.mktemp("built") / "tiny", OPTIONS)


@pytest.fixture
def copy(built, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in built.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _contents(folder):
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def test_the_tokens_are_the_documents_in_order(built):
    tokenizer = load_tokenizer(built.folder / TOKENIZER_NAME)
    texts = {document.id: document.text for document in _documents()}
    seen = set()
    for split, entry in built.manifest.splits():
        ids = open_shard(built.folder / f"tiny_{split}_000000.bin").tolist()
        expected = []
        for document in entry.documents:
            expected += [1, *tokenizer.encode(texts[document.id])]
            seen.add(document.id)
        assert ids == expected
    assert seen == set(texts)


def test_the_manifest_says_what_is_there(built):
    assert read_manifest(built.folder) == built.manifest
    assert built.fresh
    entry = built.manifest.val
    assert 2 <= entry.totals.documents == len(entry.documents) <= 15
    size = sum(len(document.text.encode()) for document in _documents())
    totals = [entry.totals for _, entry in built.manifest.splits()]
    assert sum(total.raw_bytes for total in totals) == size
    assert all(total.raw_bytes == total.decoded_bytes == total.charged_bytes for total in totals)
    assert built.manifest.tokenizer.sha256 == sha256_of(built.folder / TOKENIZER_NAME)
    assert [shard.tokens for shard in entry.shards] == [entry.totals.tokens]


def test_the_same_documents_in_another_order_give_the_same_bytes(built, tmp_path):
    shuffled = random.Random(1).sample(_documents(), 40)
    again = build_dataset(shuffled, tmp_path / "again", OPTIONS)
    assert _contents(again.folder) == _contents(built.folder)


def test_the_tokenizer_never_sees_the_validation_split(built, tmp_path):
    validation = {document.id for document in built.manifest.val.documents}
    changed = [
        Document(document.id, "Quixotic zephyrs! " * 50 + document.id if document.id in validation else document.text)
        for document in _documents()
    ]
    other = build_dataset(changed, tmp_path / "other", OPTIONS)
    assert other.manifest.tokenizer.sha256 == built.manifest.tokenizer.sha256
    assert other.manifest.train == built.manifest.train


def test_small_shards_hold_the_same_stream(built, tmp_path):
    options = BuildOptions(corpus="tiny", source="test", vocab_size=VOCAB, val_one_in=5, shard_tokens=100)
    result = build_dataset(_documents(), tmp_path / "small", options)
    dataset, whole = open_dataset(result.folder, VOCAB), open_dataset(built.folder, VOCAB)
    assert len(dataset.train_paths) > 10
    assert {len(open_shard(path)) for path in dataset.train_paths[:-1]} == {100}
    assert read_tokens(dataset.train_paths, VOCAB).equal(read_tokens(whole.train_paths, VOCAB))
    assert check_dataset(result.folder).findings == []


def test_check_proves_every_document(built):
    report = check_dataset(built.folder)
    assert report.findings == []
    assert report.proved_documents == 40


@pytest.mark.parametrize("normalisation", ["identity", "competition"])
def test_odd_documents_are_built_and_proved(tmp_path, normalisation):
    odd = [
        "",
        " begins with a space",
        "\u2581 a literal mark",
        "\0\t\r\n",
        "ﬁ ﷽ 漢字 😀",
        "<s> </s>",
        "   x",
        "\n" * 300 + "y",
    ]
    documents = [*_documents(), *(Document(f"odd-{number}", text) for number, text in enumerate(odd))]
    options = BuildOptions("odd", "test", VOCAB, normalisation=normalisation, val_one_in=5)
    result = build_dataset(documents, tmp_path / "odd", options)
    report = check_dataset(tmp_path / "odd")
    assert report.findings == []
    entries = {one.id: one for _, entry in result.manifest.splits() for one in entry.documents}
    changed = {name for name, entry in entries.items() if entry.decoded_sha256 is not None}
    totals = [entry.totals for _, entry in result.manifest.splits()]
    assert sum(total.changed_documents for total in totals) == len(changed)
    assert report.proved_documents == len(entries) - len(changed)
    if normalisation == "identity":
        assert changed == {"odd-2"}
        assert entries["odd-2"].raw_bytes - entries["odd-2"].decoded_bytes == 2
        # odd-1, odd-2 and odd-6 begin with a space.
        assert sum(total.decoded_bytes - total.charged_bytes for total in totals) == 3
    else:
        assert {"odd-4", "doc-0"} <= changed
        assert all(total.decoded_bytes == total.charged_bytes for total in totals)


def test_a_text_in_both_splits_is_dropped_and_named(tmp_path):
    documents = _documents()
    given = {document.id: document for document in documents}
    plain = build_dataset(documents, tmp_path / "plain", OPTIONS).manifest
    original = given[plain.val.documents[0].id]
    victim = plain.train.documents[0].id
    given[victim] = Document(victim, original.text.replace(" ", "\n "))
    manifest = build_dataset(given.values(), tmp_path / "clash", OPTIONS).manifest
    assert [(one.id, one.repeats) for one in manifest.dropped] == [(victim, original.id)]
    assert manifest.train.totals.documents == plain.train.totals.documents - 1
    assert manifest.val.documents == plain.val.documents or manifest.tokenizer != plain.tokenizer
    assert check_dataset(tmp_path / "clash").findings == []


def test_an_equal_data_set_is_left_alone(copy):
    before = _contents(copy)
    stamp = (copy / MANIFEST_NAME).stat().st_mtime_ns
    again = build_dataset(_documents(), copy, OPTIONS)
    assert not again.fresh
    assert _contents(copy) == before and (copy / MANIFEST_NAME).stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (_documents(), {"vocab_size": 330}, "holds a data set with vocab_size 320, asked for 330; remove it or choose"),
        (_documents(), {"val_one_in": 6}, "with val_one_in 5, asked for 6"),
        (_documents(seed=1), {}, "was made from other train documents; remove it or choose another --out"),
        (_documents(39), {}, "was made from other (train|val) documents"),
    ],
)
def test_another_data_set_is_never_overwritten(copy, documents, options, message):
    before = _contents(copy.parent)
    chosen = {"corpus": "tiny", "source": "test", "vocab_size": VOCAB, "val_one_in": 5, **options}
    with pytest.raises(UserError, match=message):
        build_dataset(documents, copy, BuildOptions(**chosen))
    assert _contents(copy.parent) == before


def test_a_damaged_data_set_is_not_taken_for_whole(copy):
    shard = copy / "tiny_train_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match="tiny_train_000000.bin is truncated"):
        build_dataset(_documents(), copy, OPTIONS)
    (copy / TOKENIZER_NAME).unlink()
    shard.write_bytes(shard.read_bytes() + b"\0\0")
    with pytest.raises(UserError, match="tokenizer.model is not the tokenizer of its manifest; remove"):
        build_dataset(_documents(), copy, OPTIONS)


def test_a_folder_of_other_things_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all my work")
    with pytest.raises(UserError, match="--out must be new, empty or a data set of these options, got .*mine"):
        build_dataset(_documents(), tmp_path / "mine", OPTIONS)
    assert (tmp_path / "mine/thesis.txt").read_text() == "all my work"
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="--out must be new"):
        build_dataset(_documents(), tmp_path / "file", OPTIONS)
    (tmp_path / "empty").mkdir()
    assert build_dataset(_documents(), tmp_path / "empty", OPTIONS).fresh


class _Stop(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("stage", ["train_tokenizer", "encode_documents", "write_manifest"])
def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, stage):
    def stop(*_, **__):
        raise _Stop

    monkeypatch.setattr(f"data.build.{stage}", stop)
    with pytest.raises(_Stop):
        build_dataset(_documents(), tmp_path / "new", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtime.files.os.fsync", full)
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        build_dataset(_documents(), tmp_path / "new", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/new: Not a directory"):
        build_dataset(_documents(), tmp_path / "file/new", OPTIONS)


def test_what_a_killed_build_left_is_cleared_away(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getppid()):
        (tmp_path / f".new.{process}.building").mkdir()
        (tmp_path / f".new.{process}.building/half").touch()
    (tmp_path / f".newer.{dead.pid}.building").mkdir()
    build_dataset(_documents(), tmp_path / "new", OPTIONS)
    # A build that still runs, and one of another data set, are left alone.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["new", f".new.{os.getppid()}.building", f".newer.{dead.pid}.building"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 10}, "261 to 65536 pieces"),
        ({"shard_tokens": 0}, "a shard holds at least 1 token, got 0; nearest 1"),
        ({"corpus": "a/b"}, "a name that can stand in a file name, got 'a/b'"),
        ({"val_one_in": 1}, "1 in 1; nearest 2"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        build_dataset(
            _documents(), tmp_path / "x", BuildOptions(**{"corpus": "x", "source": "", "vocab_size": VOCAB, **options})
        )
    assert list(tmp_path.iterdir()) == []


def _flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 2
    path.write_bytes(data)


def _move_a_document(manifest, folder):
    """A manifest and shards that agree with each other, with one validation document in train as well."""
    entry = manifest.val.documents[-1]
    stream = open_shard(folder / "tiny_val_000000.bin")
    ids = [*open_shard(folder / "tiny_train_000000.bin").tolist(), *stream[-entry.tokens :].tolist()]
    write_shard(folder / "tiny_train_000000.bin", ids)
    manifest.train.documents.append(entry)


def _rename_first(manifest, folder):
    manifest.train.documents[0] = manifest.train.documents[1]


def _change_a_token_and_its_hash(manifest, folder):
    path = folder / "tiny_val_000000.bin"
    ids = open_shard(path).tolist()
    ids[5] += 1
    write_shard(path, ids)
    manifest.val.shards[0] = ShardEntry(path.name, len(ids), sha256_of(path))


def _put_a_bos_inside(manifest, folder):
    path = folder / "tiny_train_000000.bin"
    ids = open_shard(path).tolist()
    ids[5] = 1
    write_shard(path, ids)


SPOILT = {
    "a changed text under a right hash": (_change_a_token_and_its_hash, "val document doc-.* decode to another text"),
    "a BOS inside a document": (_put_a_bos_inside, "train document doc-.* must be one BOS and text"),
    "a flipped token": (
        lambda m, f: _flip(f / "tiny_train_000000.bin", 1100),
        "^tiny_train_000000.bin has another SHA-256",
    ),
    "a truncated shard": (
        lambda m, f: os.truncate(f / "tiny_val_000000.bin", 1050),
        "tiny_val_000000.bin is truncated",
    ),
    "a missing shard": (lambda m, f: (f / "tiny_val_000000.bin").unlink(), "tiny_val_000000.bin: No such file"),
    "an extra shard": (
        lambda m, f: write_shard(f / "tiny_val_000001.bin", [1]),
        "a shard that the manifest does not know",
    ),
    "another tokenizer": (lambda m, f: _flip(f / TOKENIZER_NAME, -1), "SHA-256|SentencePiece model"),
    "no tokenizer": (lambda m, f: (f / TOKENIZER_NAME).unlink(), "the tokenizer cannot be read"),
    "overlap": (_move_a_document, "train document .* stands in val as .*: equal folded_sha256"),
    "a document listed twice": (_rename_first, "the train documents hold an id twice"),
    "an id beyond the vocabulary": (
        lambda m, f: write_shard(f / "tiny_val_000000.bin", [1, 2, 320]),
        "below the vocabulary of 320, got 320 at position 2",
    ),
    "another order": (lambda m, f: m.val.documents.reverse(), "the val documents are not in hash order"),
    "a stream cut at a document": (
        lambda m, f: write_shard(f / "tiny_val_000000.bin", open_shard(f / "tiny_val_000000.bin").tolist()[:-3]),
        "its tokens decode to another text than the manifest's",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT.keys())
def test_check_finds(copy, spoil, message):
    manifest = read_manifest(copy)
    spoil(manifest, copy)
    write_manifest(copy, manifest)
    findings = check_dataset(copy).findings
    assert any(re.search(message, finding) for finding in findings), findings
    assert not any("\n" in finding for finding in findings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "a manifest must be of version 1, got None"),
        (b"not json", "is no manifest of a data set"),
        (b"[]", "is no manifest of a data set"),
        (b'{"version": 1}', "is no manifest of a data set: .*missing required field"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, content, message):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        check_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_check_needs_a_manifest(tmp_path):
    with pytest.raises(UserError, match="the manifest of the data set cannot be read: .*manifest.json: No such file"):
        check_dataset(tmp_path)


def test_open_dataset_of_a_build(built):
    dataset = open_dataset(built.folder, VOCAB)
    assert [path.name for path in (*dataset.train_paths, *dataset.val_paths)] == [
        "tiny_train_000000.bin",
        "tiny_val_000000.bin",
    ]
    assert dataset.tokenizer_path == built.folder / TOKENIZER_NAME
    assert (dataset.folder, dataset.vocab_size) == (built.folder, VOCAB)


def test_open_dataset_of_the_published_layout(built, tmp_path):
    folder = tmp_path / "data/datasets/fineweb10B_sp320"
    folder.mkdir(parents=True)
    (tmp_path / "data/tokenizers").mkdir()
    for split in ("train", "val"):
        write_shard(folder / f"fineweb_{split}_000000.bin", [1, 2, 3])
    (folder / "fineweb_val_bytes_000000.bin").touch()
    with pytest.raises(UserError, match="has no tokenizer; looked for .*tokenizer.model and .*fineweb_320_bpe.model"):
        open_dataset(folder, VOCAB)
    tokenizer = tmp_path / "data/tokenizers/fineweb_320_bpe.model"
    tokenizer.write_bytes((built.folder / TOKENIZER_NAME).read_bytes())
    dataset = open_dataset(folder, VOCAB)
    assert dataset.tokenizer_path.samefile(tokenizer)
    assert len(dataset.val_paths) == 1
    with pytest.raises(UserError, match="must be the tokenizer's, got 1024 and 320 .*; nearest 320"):
        open_dataset(folder, 1024)
    assert open_dataset(folder, VOCAB, built.folder / TOKENIZER_NAME).tokenizer_path == built.folder / TOKENIZER_NAME


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("sotu_sp1024", "python -m data build --corpus sotu --vocab 1024 --out .*/sotu_sp1024$"),
        ("fineweb10B_sp1024", "python -m data download --variant sp1024 --train-shards 10$"),
    ],
)
def test_a_missing_data_set_names_its_command(tmp_path, name, command):
    with pytest.raises(UserError, match=f"does not exist; make it: {command}"):
        open_dataset(tmp_path / name, 1024)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"found none in .*; make the data set: {command}"):
        open_dataset(tmp_path / name, 1024)


def test_a_recipe_of_another_vocabulary(built):
    with pytest.raises(UserError, match="the recipe's vocabulary must be the tokenizer's, got 1024 and 320"):
        open_dataset(built.folder, 1024)
