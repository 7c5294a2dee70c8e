"""SentencePiece tokenizers: the competition's trainer settings, and the same ones without normalisation.

Byte-pair encoding with byte fallback, digits split, no dummy prefix, character coverage .999, pad 0, bos 1, eos 2,
unk 3 [1]. A run of spaces stays a row of single U+2581 pieces (SentencePiece's default), so each is charged one byte.

[1] openai/parameter-golf, its tokenizer options; SentencePiece: Kudo and Richardson, arXiv:1808.06226.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from runtime.errors import UserError, nearest
from runtime.files import read_bytes, write_bytes

BOS_ID = 1
# SentencePiece writes a space as this character; a literal one in a text is read back as a space.
SPACE_MARK = "\u2581"
# 4 special pieces, 256 bytes and U+2581 are always there; a token id must fit a shard's uint16.
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 4 + 256 + 1, 1 << 16
TRAINER_OPTIONS = {
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "add_dummy_prefix": False,
    "character_coverage": 0.999,
    "hard_vocab_limit": False,
    "pad_id": 0,
    "bos_id": BOS_ID,
    "eos_id": 2,
    "unk_id": 3,
    # A document is one sentence; the default would skip all that are longer than 4192 bytes in silence.
    "max_sentence_length": 1 << 30,
    "num_threads": 1,
    "minloglevel": 2,
}
# Own corpora keep every byte, so a line break is a character like any other and must have its piece; nmt_nfkc turns it
# into a space before the trainer sees it.
NORMALISATIONS = {
    "identity": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "required_chars": "\n" + SPACE_MARK,
    },
    "competition": {
        "normalization_rule_name": "nmt_nfkc",
        "remove_extra_whitespaces": True,
        "required_chars": SPACE_MARK,
    },
}


def load_tokenizer(path: str | Path) -> SentencePieceProcessor:
    """The tokenizer in a SentencePiece model file. Raises UserError when it is missing or something else."""
    model = read_bytes(path, "the tokenizer")
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise UserError(f"the tokenizer must be a SentencePiece model, got {path} ({len(model)} bytes)") from error
    return processor


def train_tokenizer(
    texts: Iterable[str],  # the documents of the train split only
    path: str | Path,
    *,
    vocab_size: int,
    normalisation: str = "identity",  # a key of NORMALISATIONS
) -> SentencePieceProcessor:
    """Trains a tokenizer of exactly `vocab_size` pieces, writes it to `path` in one step and returns it.

    The same texts in the same order give the same file, byte for byte.
    Raises UserError for an unknown normalisation and for a vocabulary the texts cannot give, with the nearest they can.
    """
    check_tokenizer_options(vocab_size, normalisation)
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocab_size,
            **TRAINER_OPTIONS,
            **NORMALISATIONS[normalisation],
        )
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size) from error
    processor = SentencePieceProcessor(model_proto=model.getvalue())
    num_pieces = processor.get_piece_size()
    if num_pieces != vocab_size:
        raise UserError(f"the train split is too small for {vocab_size} pieces; nearest: a vocabulary of {num_pieces}")
    write_bytes(path, model.getvalue())
    return processor


def check_tokenizer_options(vocab_size: int, normalisation: str) -> None:
    """Raises UserError for a vocabulary size or a normalisation that no tokenizer of ours can have."""
    if normalisation not in NORMALISATIONS:
        raise UserError(f"unknown normalisation {normalisation!r}; {nearest(normalisation, NORMALISATIONS)}")
    if not SMALLEST_VOCABULARY <= vocab_size <= LARGEST_VOCABULARY:
        closest = min(max(vocab_size, SMALLEST_VOCABULARY), LARGEST_VOCABULARY)
        raise UserError(
            f"a vocabulary holds {SMALLEST_VOCABULARY} to {LARGEST_VOCABULARY} pieces (256 bytes, 4 special ones; "
            f"uint16 ids), got {vocab_size}; nearest {closest}"
        )


def _training_error(message: str, vocab_size: int) -> UserError:
    smallest = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if smallest:
        return UserError(
            f"a vocabulary must hold the special pieces, 256 bytes and every frequent character of the corpus, "
            f"got {vocab_size}; nearest {smallest.group(1)}"
        )
    if "sentences_.empty()" in message:
        return UserError("the tokenizer needs text to train on, got only empty documents in the train split")
    return UserError(f"SentencePiece cannot train on these documents: {' '.join(message.split())}")
