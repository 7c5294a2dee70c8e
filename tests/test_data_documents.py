"""The loader of documents against the documents: each in order and whole, groups, lanes, ranks, resumed."""

import numpy as np
import pytest
import torch

from data.documents import DocumentsConfig, document_groups
from data.shards import find_shards, write_shard
from data.tokenizer import BOS_ID
from runtime.errors import UserError

# In windows of 10: 4, 1, 2, none, 3, 2 and 1 of them, with ids that tell where they stand.
LENGTHS = (45, 19, 20, 7, 33, 21, 10)
STARTS = np.cumsum((0, *LENGTHS))[:-1]
STREAM = np.arange(100, 100 + sum(LENGTHS))
STREAM[STARTS] = BOS_ID


@pytest.fixture
def paths(tmp_path):
    """Two shards; the second begins within a document."""
    for index, part in enumerate((STREAM[:90], STREAM[90:])):
        write_shard(tmp_path / f"x_train_{index:06d}.bin", part)
    return find_shards(tmp_path, "train")


def loader(paths, rank=0, world_size=1, lanes=1, window=10, num_rows=2):
    return DocumentsConfig(lanes)(
        paths, window=window, tokens_per_slice=window * num_rows, rank=rank, world_size=world_size, vocab_size=1000
    )


def place_of(row):
    """Where in the stream a row begins."""
    return next(place for place in range(len(STREAM)) if np.array_equal(STREAM[place : place + len(row)], row))


def test_every_document_is_read_in_order_from_its_begin(paths):
    documents, taken, rows = loader(paths), [], []
    while documents.epochs < 1:
        going_on = documents.going_on(0)
        x, y = documents.next()
        assert torch.equal(x[:, 1:], y[:, :-1])
        places = [place_of(row) for row in x.tolist()]
        if going_on:
            # The rows that stay are the first ones, each a window further.
            assert places == [place + 10 for place in rows[:going_on]] and len(places) == going_on
        else:
            assert all(place in STARTS for place in places)
        rows = places
        taken += places
    whole = [start + 10 * index for start, length in zip(STARTS, LENGTHS, strict=True) for index in range(length // 10)]
    assert sorted(taken) == whole
    assert documents.windows == len(whole) == 13 and documents.tokens == 130


def test_the_second_epoch_reads_what_the_first_left_out(paths):
    documents, read = loader(paths), {0: set(), 1: set()}
    while documents.epochs < 2:
        epoch = documents.windows // 13
        read[epoch] |= set(documents.next()[0].flatten().tolist())
    first, last = STREAM[STARTS[0] + 1], STREAM[STARTS[1] - 1]
    assert first in read[0] and last not in read[0]
    assert first not in read[1] and last in read[1]


def test_groups_are_of_one_length_and_the_longest_comes_first():
    groups = document_groups([0, 45, 64, 84, 91, 124, 145], 155, window=10, num_rows=2)
    assert [[len(document) for document in group] for group in groups] == [[45, 33], [20, 21], [19, 10]]


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_follow_the_lanes_of_one_rank(paths, world_size):
    single = loader(paths, lanes=2)
    ranks = [loader(paths, rank, world_size, lanes=2) for rank in range(world_size)]
    for call in range(24 // world_size):
        for rank, documents in enumerate(ranks):
            (x, y), (alone_x, alone_y) = documents.next(), single.next()
            assert torch.equal(x, alone_x) and torch.equal(y, alone_y)
            assert documents.lane == single.lane == (call * world_size + rank) % 2
    assert ranks[0].state_dict() == single.state_dict()


def test_a_resumed_loader_goes_on(paths):
    documents, resumed = loader(paths, lanes=2), loader(paths, lanes=2)
    for _ in range(5):
        documents.next()
    state = documents.state_dict()
    expected = [documents.next() for _ in range(9)]
    resumed.load_state_dict(state)
    for x, y in expected:
        again_x, again_y = resumed.next()
        assert torch.equal(x, again_x) and torch.equal(y, again_y)
    assert resumed.going_on(0) == documents.going_on(0) and resumed.epochs == documents.epochs
    with pytest.raises(UserError, match="stream has 7 tokens"):
        resumed.load_state_dict({**state, "stream_tokens": 7})


def test_documents_shorter_than_a_window_are_left_out_unless_all_are(paths):
    documents = loader(paths, window=30)
    x, _ = documents.next()
    assert [place_of(row) for row in x.tolist()] == [STARTS[0], STARTS[4]] and documents.next()[0].shape == (2, 30)
    with pytest.raises(UserError, match="one window of 46 tokens, the longest of 7 has 45; nearest window 45"):
        loader(paths, window=46)


@pytest.mark.parametrize("lanes, world_size, nearest", [(3, 2, 4), (0, 1, 1), (1, 2, 2)])
def test_ranks_divide_the_lanes(paths, lanes, world_size, nearest):
    with pytest.raises(UserError, match=f"{world_size} ranks, {lanes} lanes; nearest {nearest} lanes"):
        loader(paths, lanes=lanes, world_size=world_size)
