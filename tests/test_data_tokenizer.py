"""Tokenizers and their byte tables: every text comes back, and its bytes are counted to the last one."""

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from data.bytecount import ByteTable
from data.tokenizer import load_tokenizer, train_tokenizer
from runtime.errors import UserError

VOCAB = 400
TEXTS = [
    "The House met at noon.\n\nIt was resolved, by 12 votes to 7, that the bill  should pass.\n" * 5,
    "A house divided\tagainst itself cannot stand.\r\n\r\n\r\n" * 5,
    "no end of words " + "long" * 3000,
]
NASTY = {
    "plain": "The House met at noon.",
    "spaces": "a  b   c    ",
    "line breaks": "\n\none\n\n\ntwo \n \n\r\n\r",
    "tabs and NUL": "\t\0a\0\t\0\0",
    "only breaks": "\n",
    "empty": "",
    "multi-byte": "é€😀\u00a0\u2028\ufdfa ü\ufeff\ufffd",
    "characters that no training text has": "Ω≈ç√∫˜µ≤≥÷ 漢字 𝔘𝔫𝔦",
    "pieces by name": "<s></s><unk><pad><0x41> <0x0A>",
    "digits": "1234567890 3.14159",
    "combining": "e\u0301 \u1112\u1161\u11ab",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module", params=["identity", "competition"])
def tokenizer(request, folder):
    return train_tokenizer(TEXTS, folder / f"{request.param}.model", vocab_size=VOCAB, normalisation=request.param)


@pytest.fixture(scope="module")
def identity(folder):
    return train_tokenizer(TEXTS, folder / "one.model", vocab_size=VOCAB)


def _charged(tokenizer, text):
    """The bytes of BOS + encode(text), and the decoded text."""
    ids = tokenizer.encode(text)
    row = torch.tensor([tokenizer.bos_id(), *ids])
    table = ByteTable.from_tokenizer(tokenizer, tokenizer.get_piece_size())
    return int(table.count(row[1:], row[:-1]).sum()), tokenizer.decode(ids)


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_identity_gives_every_text_back(identity, text):
    assert identity.decode(identity.encode(text)) == text


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_charged_bytes_are_the_decoded_bytes(tokenizer, text):
    charged, decoded = _charged(tokenizer, text)
    assert charged == len(decoded.encode())


def test_long_texts_and_line_breaks_are_trained_on(identity):
    pieces = {identity.id_to_piece(index) for index in range(VOCAB)}
    # Only the third text has these, and it is three times as long as SentencePiece's default would admit.
    assert "longlong" in pieces
    assert "\n\n" in pieces


def test_special_ids(identity):
    ids = identity.pad_id(), identity.bos_id(), identity.eos_id(), identity.unk_id()
    assert ids == (0, 1, 2, 3)
    assert identity.get_piece_size() == VOCAB
    assert len(identity.encode("1234")) == 4


def test_a_literal_space_mark_is_read_back_as_a_space(identity):
    # SentencePiece's own limit: it writes a space as this character. The build says how many documents it touches.
    charged, decoded = _charged(identity, "a\u2581b")
    assert decoded == "a b"
    assert charged == 3


def test_a_space_after_bos_is_not_charged(identity):
    assert _charged(identity, " a  b") == (4, " a  b")


def test_two_documents_in_one_stream(identity):
    first, second = identity.encode("one house\n"), identity.encode(" two")
    row = torch.tensor([1, *first, 1, *second])
    table = ByteTable.from_tokenizer(identity, VOCAB)
    charged = table.count(row[1:], row[:-1])
    assert charged.dtype == torch.int64 and charged.shape == (len(row) - 1,)
    assert charged[len(first)] == 0
    assert charged.sum() == len("one house\n") + len(" two") - 1


def test_the_table_by_hand(identity):
    table = ByteTable.from_tokenizer(identity, VOCAB)
    assert (table.piece_bytes.dtype, table.lead.dtype, table.boundary.dtype) == (torch.int16, torch.bool, torch.bool)
    rows = list(zip(table.piece_bytes.tolist(), table.lead.tolist(), table.boundary.tolist(), strict=True))
    assert rows[:4] == [(0, False, True)] * 4
    assert rows[4:260] == [(1, False, False)] * 256
    assert rows[identity.piece_to_id("\u2581")] == (0, True, False)
    assert rows[identity.piece_to_id("\n\n")] == (2, False, False)
    # "\u2581the" is three bytes and the space before it.
    the = identity.piece_to_id("\u2581the")
    assert rows[the] == (3, True, False)
    byte = identity.piece_to_id("<0xE2>")
    targets, previous = torch.tensor([[the, the], [the, byte]]), torch.tensor([[1, 3], [byte, the]])
    assert table.to("cpu").count(targets, previous).tolist() == [[3, 3], [4, 1]]


def test_the_table_of_another_vocabulary_is_refused(identity):
    with pytest.raises(UserError, match="must be the tokenizer's, got 1024 and 400; nearest 400"):
        ByteTable.from_tokenizer(identity, 1024)


def _foreign(path, **options) -> SentencePieceProcessor:
    """A tokenizer with other options than ours."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a    b    c    d"] * 20),
        model_prefix=str(path),
        model_type="bpe",
        vocab_size=280,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return load_tokenizer(f"{path}.model")


def test_a_tokenizer_whose_spaces_would_count_three_bytes_is_refused(tmp_path):
    spaces = _foreign(tmp_path / "x", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
    with pytest.raises(UserError, match="has U\\+2581 past its start, which would count 3 bytes for a space"):
        ByteTable.from_tokenizer(spaces, spaces.get_piece_size())


def test_a_tokenizer_without_a_piece_for_a_space_is_refused(tmp_path):
    SentencePieceTrainer.train(
        sentence_iterator=iter(["abcd", "abce"]),
        model_prefix=str(tmp_path / "x"),
        model_type="bpe",
        vocab_size=270,
        hard_vocab_limit=False,
        byte_fallback=True,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    tokenizer = load_tokenizer(tmp_path / "x.model")
    with pytest.raises(UserError, match="no piece for a lone space"):
        ByteTable.from_tokenizer(tokenizer, tokenizer.get_piece_size())


def test_ours_always_has_a_piece_for_a_space_and_a_line_break(tmp_path):
    tokenizer = train_tokenizer(["abcd", "abce"], tmp_path / "x.model", vocab_size=270)
    assert tokenizer.decode(tokenizer.encode("a b\nc")) == "a b\nc"
    assert ByteTable.from_tokenizer(tokenizer, 270).lead[tokenizer.piece_to_id("\u2581")]
    assert not tokenizer.is_unknown(tokenizer.piece_to_id("\n"))


def test_training_is_deterministic_and_saves_what_it_returns(identity, folder, tmp_path):
    train_tokenizer(TEXTS, tmp_path / "two.model", vocab_size=VOCAB)
    assert (tmp_path / "two.model").read_bytes() == (folder / "one.model").read_bytes()
    assert load_tokenizer(tmp_path / "two.model").encode(TEXTS[0]) == identity.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (TEXTS, {"vocab_size": 262}, "every frequent character of the corpus, got 262; nearest 2[6-9][0-9]"),
        (["short text"], {"vocab_size": 1000}, "too small for 1000 pieces; nearest: a vocabulary of 285$"),
        (TEXTS, {"vocab_size": 100}, "261 to 65536 pieces .*, got 100; nearest 261"),
        (TEXTS, {"vocab_size": 70000}, "got 70000; nearest 65536"),
        (TEXTS, {"vocab_size": 300, "normalisation": "competitive"}, "'competitive'; nearest: competition"),
        (["", ""], {"vocab_size": 300}, "only empty documents in the train split"),
    ],
)
def test_a_tokenizer_that_cannot_be(tmp_path, texts, options, message):
    with pytest.raises(UserError, match=message) as caught:
        train_tokenizer(texts, tmp_path / "x.model", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_vocabulary_is_one_that_works(tmp_path):
    with pytest.raises(UserError) as caught:
        train_tokenizer(TEXTS, tmp_path / "x.model", vocab_size=262)
    nearest = int(str(caught.value).rsplit(maxsplit=1)[1])
    assert train_tokenizer(TEXTS, tmp_path / "x.model", vocab_size=nearest).get_piece_size() == nearest


@pytest.mark.parametrize("content", [b"", b"hello", b"\x0a\x02\x08\x01" * 50])
def test_a_foreign_tokenizer_is_named(tmp_path, content):
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(UserError, match=f"must be a SentencePiece model, got .*x.model \\({len(content)} bytes\\)"):
        load_tokenizer(tmp_path / "x.model")


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match="the tokenizer cannot be read: .*gone.model"):
        load_tokenizer(tmp_path / "gone.model")
