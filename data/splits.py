"""Which documents stand in train and which in val, with no text in both.

The validation split depends on the ids of its own documents alone; where a text would stand in both splits, it is the
training copy that goes. Texts count as equal when they are equal after whitespace folding.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from data.corpus import Document, in_hash_order, split_of
from data.manifest import DroppedEntry
from runtime.errors import UserError


@dataclass(frozen=True)
class SplitDocuments:
    """Both splits in hash order, and what was left out of them."""

    train: list[Document]
    val: list[Document]
    dropped: list[DroppedEntry]


def text_hash(text: str) -> str:
    """The SHA-256 of a text in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def folded_hash(text: str) -> str:
    r"""The SHA-256 of a text with every run of whitespace folded to one space and none at the ends.

    >>> folded_hash("two\n\n words ") == text_hash("two words")
    True
    """
    return text_hash(" ".join(text.split()))


def split_documents(documents: Iterable[Document], one_in: int = 20) -> SplitDocuments:
    """Splits the documents by the hash of their ids (or by their own `split`) and drops what stands in both.

    Raises UserError for `one_in` below 2, for one id with two texts, and when a split stays empty.
    """
    if one_in < 2:
        raise UserError(f"one document in at least 2 goes to val, got 1 in {one_in}; nearest 2")
    given: dict[str, list[Document]] = {"train": [], "val": []}
    for document in documents:
        given[document.split or split_of(document.id, one_in)].append(document)
    dropped: list[DroppedEntry] = []
    known: dict[str, Document] = {}
    val = _keep_new(given["val"], known, {}, dropped)
    val_texts = {folded_hash(document.text): document.id for document in val}
    train = _keep_new(given["train"], known, val_texts, dropped)
    if not train or not val:
        raise _empty_split([*train, *val], one_in, "val" if train else "train")
    return SplitDocuments(in_hash_order(train), in_hash_order(val), dropped)


def _keep_new(
    documents: list[Document],
    known: dict[str, Document],  # id -> document, filled here
    other_texts: dict[str, str],  # folded hash -> id, of the other split
    dropped: list[DroppedEntry],  # filled here
) -> list[Document]:
    kept = []
    for document in in_hash_order(documents):
        twin = known.get(document.id)
        if twin is not None and twin.text != document.text:
            raise UserError(f"a document's id must be its own, got {document.id!r} for two different texts")
        known[document.id] = document
        if twin is not None:
            dropped.append(_dropped(document, twin.id, "same id and text"))
        elif (repeated := other_texts.get(folded_hash(document.text))) is not None:
            dropped.append(_dropped(document, repeated, "the text stands in val"))
        else:
            kept.append(document)
    return kept


def _dropped(document: Document, repeats: str, reason: str) -> DroppedEntry:
    return DroppedEntry(document.id, text_hash(document.text), repeats, reason)


def _empty_split(documents: list[Document], one_in: int, empty: str) -> UserError:
    fits = (
        candidate
        for candidate in sorted(range(2, 101), key=lambda candidate: abs(candidate - one_in))
        if len({split_of(document.id, candidate) for document in documents}) == 2
    )
    best = next(fits, None)
    advice = f"nearest --val-one-in {best}" if best else "give more documents"
    return UserError(
        f"both splits need a document, got none for {empty} of {len(documents)} at 1 in {one_in}; {advice}"
    )
