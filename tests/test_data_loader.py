"""The loader against the stream it stands for: any number of ranks, over shard ends, round and round, resumed."""

import numpy as np
import pytest
import torch

from data.coprime import CoprimeLoader
from data.loader import SequentialLoader
from data.shards import find_shards, write_shard
from runtime.errors import UserError

VOCAB = 1000
SIZES = [1000, 1, 37, 512]
STREAM = np.random.default_rng(1).integers(0, VOCAB, sum(SIZES))


@pytest.fixture
def paths(tmp_path):
    ends = np.cumsum(SIZES)
    for number, (end, size) in enumerate(zip(ends, SIZES, strict=True)):
        write_shard(tmp_path / f"x_train_{number:06d}.bin", STREAM[end - size : end])
    return sorted(tmp_path.glob("*.bin"))


def _loader(paths, rank=0, world_size=1, window=16, tokens_per_slice=64, vocab_size=VOCAB):
    return SequentialLoader(
        paths,
        window=window,
        tokens_per_slice=tokens_per_slice,
        rank=rank,
        world_size=world_size,
        vocab_size=vocab_size,
    )


def _expected(call, rank, world_size, tokens_per_slice=64, window=16):
    """The batch by the rule itself, from the whole stream in memory."""
    span = tokens_per_slice + 1
    places = (call * world_size + rank) * span + np.arange(span)
    ids = torch.from_numpy(STREAM[places % len(STREAM)])
    return ids[:-1].reshape(-1, window), ids[1:].reshape(-1, window)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_cut_the_same_slices_in_the_same_order(paths, world_size):
    loaders = [_loader(paths, rank, world_size) for rank in range(world_size)]
    single = _loader(paths)
    # 12 rounds of 8 slices are four times round the stream.
    for call in range(96 // world_size):
        for rank, loader in enumerate(loaders):
            x, y = loader.next()
            alone_x, alone_y = single.next()
            expected_x, expected_y = _expected(call, rank, world_size)
            assert torch.equal(x, expected_x) and torch.equal(y, expected_y)
            assert torch.equal(x, alone_x) and torch.equal(y, alone_y)
    assert {loader.state_dict()["position"] for loader in loaders} == {single.state_dict()["position"]}


def test_shapes_and_types(paths):
    x, y = _loader(paths, window=16, tokens_per_slice=48).next()
    assert x.shape == y.shape == (3, 16)
    assert x.dtype == y.dtype == torch.int64
    assert x.device.type == "cpu"
    assert torch.equal(x.flatten()[1:], y.flatten()[:-1])


def test_a_slice_longer_than_the_stream_goes_round(paths):
    x, _ = _loader(paths, window=100, tokens_per_slice=4000).next()
    assert torch.equal(x, _expected(0, 0, 1, 4000, 100)[0])


def test_the_state_counts_position_tokens_and_epoch(paths):
    loader = _loader(paths, rank=1, world_size=2)
    for _ in range(12):
        loader.next()
    assert loader.state_dict() == {"position": 12 * 130, "tokens": 12 * 128, "epoch": 1, "stream_tokens": 1550}


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_resumed_loader_goes_on_in_any_world(paths, world_size):
    first = [_loader(paths, rank, 2) for rank in range(2)]
    for loader in [*first] * 13:
        loader.next()
    resumed = [_loader(paths, rank, world_size) for rank in range(world_size)]
    single = _loader(paths)
    for loader in [*resumed, single]:
        loader.load_state_dict(first[0].state_dict())
    assert resumed[0].state_dict() == first[1].state_dict()
    for _ in range(5):
        for loader in resumed:
            assert torch.equal(loader.next()[0], single.next()[0])
    assert single.state_dict()["position"] == 26 * 65 + 5 * world_size * 65


def test_the_state_of_another_stream_is_refused(paths):
    state = _loader(paths[:2]).state_dict()
    with pytest.raises(UserError, match="its stream has 1001 tokens, the shards have 1550"):
        _loader(paths).load_state_dict(state)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tokens_per_slice": 70}, "a multiple of the window = 16, got 70; nearest 64"),
        ({"tokens_per_slice": 0}, "a multiple of the window = 16, got 0; nearest 16"),
        ({"window": 0}, "at least 1 token, got 0; nearest 1"),
        ({"rank": 2, "world_size": 2}, r"in 0..1 for 2 ranks, got 2; nearest 1"),
    ],
)
def test_sizes_that_do_not_divide(paths, sizes, message):
    with pytest.raises(UserError, match=message):
        _loader(paths, **sizes)


def test_no_shards():
    with pytest.raises(UserError, match="at least one shard, got none"):
        _loader([])


def test_an_id_beyond_the_vocabulary_is_named_where_it_stands(tmp_path):
    paths = [tmp_path / "x_train_000000.bin", tmp_path / "x_train_000001.bin"]
    write_shard(paths[0], [5] * 100)
    write_shard(paths[1], [5] * 60 + [999] + [5] * 60)
    loader = _loader(paths, vocab_size=999)
    loader.next()
    loader.next()
    with pytest.raises(UserError, match="below the vocabulary of 999, got 999 at position 60 of .*x_train_000001.bin"):
        loader.next()


def test_a_shard_cut_short_is_refused_at_the_start(paths):
    paths[3].write_bytes(paths[3].read_bytes()[:-2])
    with pytest.raises(UserError, match="x_train_000003.bin is truncated"):
        _loader(paths)


@pytest.fixture
def coprime_shards(tmp_path):
    """Two shards, 100 windows of 10 tokens and a tail; token i has id i % 1000."""
    ids = np.arange(1003) % 1000
    for index, part in enumerate((ids[:400], ids[400:])):
        write_shard(tmp_path / f"count_train_{index:06d}.bin", part)
    return find_shards(tmp_path, "train")


def coprime(paths, rank=0, world_size=1, tokens_per_slice=20):
    return CoprimeLoader(
        paths, window=10, tokens_per_slice=tokens_per_slice, rank=rank, world_size=world_size, vocab_size=1000
    )


def test_coprime_takes_every_window_once_an_epoch_and_targets_follow_inputs(coprime_shards):
    loader = coprime(coprime_shards)
    firsts = []
    for _ in range(50):
        x, y = loader.next()
        assert torch.equal(x[:, 1:], y[:, :-1])
        firsts += x[:, 0].tolist()
    assert sorted(firsts) == list(range(0, 1000, 10))
    assert loader.epochs == 1.0
    # The next epoch cuts the windows elsewhere.
    assert loader.next()[0][0, 0] % 10 != 0


def test_coprime_neighbours_are_far_apart(coprime_shards):
    x, _ = coprime(coprime_shards, tokens_per_slice=100).next()
    starts = sorted(x[:, 0].tolist())
    assert max(later - earlier for earlier, later in zip(starts, starts[1:], strict=False)) <= 200


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_coprime_ranks_see_the_slices_of_one_rank(coprime_shards, world_size):
    single = coprime(coprime_shards)
    ranks = [coprime(coprime_shards, rank, world_size) for rank in range(world_size)]
    for _ in range(3):
        for loader in ranks:
            assert torch.equal(loader.next()[0], single.next()[0])
    assert ranks[0].state_dict() == single.state_dict()


def test_coprime_resumes_at_its_position(coprime_shards):
    loader = coprime(coprime_shards)
    loader.next()
    state = loader.state_dict()
    expected = loader.next()
    resumed = coprime(coprime_shards)
    resumed.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(resumed.next(), expected, strict=True))
    with pytest.raises(UserError, match="stream has 7 tokens"):
        resumed.load_state_dict({**state, "stream_tokens": 7})


def test_coprime_refuses_a_split_shorter_than_a_window(coprime_shards):
    with pytest.raises(UserError, match="one window of 2000 tokens, got 1003; nearest window 1003"):
        CoprimeLoader(coprime_shards, window=2000, tokens_per_slice=2000, rank=0, world_size=1, vocab_size=1000)
