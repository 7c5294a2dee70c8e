"""The competition's shard format, both ways, and what is refused."""

import hashlib

import numpy as np
import pytest
import torch

from data.shards import find_shards, open_shard, read_tokens, write_shard
from runtime.errors import UserError


@pytest.mark.parametrize("tokens", [[7], [0, 65535, 1], np.arange(3001, dtype=np.uint16), np.arange(5, dtype=np.int64)])
def test_what_is_written_is_read(tmp_path, tokens):
    path = tmp_path / "x_train_000000.bin"
    write_shard(path, tokens)
    shard = open_shard(path)
    assert isinstance(shard, np.memmap) and shard.dtype == np.uint16
    assert shard.tolist() == list(tokens)
    assert path.stat().st_size == 1024 + 2 * len(tokens)


def test_the_bytes_are_the_competitions(tmp_path):
    write_shard(tmp_path / "x_val_000000.bin", [1, 258])
    data = (tmp_path / "x_val_000000.bin").read_bytes()
    header = bytes.fromhex("88 d8 34 01 01 00 00 00 02 00 00 00")
    assert int.from_bytes(header[:4], "little") == 20240520
    assert data == header + bytes(1024 - 12) + b"\x01\x00\x02\x01"


def test_a_mapped_shard_cannot_be_changed(tmp_path):
    write_shard(tmp_path / "x_val_000000.bin", [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        open_shard(tmp_path / "x_val_000000.bin")[0] = 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([], "at least 1 token"), ([[1, 2]], "a row of"), ([1, 65536], "0 to 65535, got 1 to 65536"), ([-1], "got -1")],
)
def test_what_no_shard_can_hold(tmp_path, tokens, message):
    path = tmp_path / "x_train_000000.bin"
    write_shard(path, [5])
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(UserError, match=message):
        write_shard(path, tokens)
    assert hashlib.sha256(path.read_bytes()).digest() == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-1], "is truncated: 10 tokens take 1024 \\+ 2 x 10 bytes, the file has 1043"),
        (lambda data: data + b"\0\0", "is too long: 10 tokens .* the file has 1046"),
        (lambda data: data[:1000], "is no shard: the header takes 1024 bytes, the file has 1000"),
        (lambda data: b"", "is no shard: the header takes 1024 bytes, the file has 0"),
        (lambda data: b"\0" + data[1:], "is no shard: it must start with 20240520 and version 1, got 20240384 and 1"),
        (lambda data: data[:4] + b"\x02" + data[5:], "got 20240520 and 2"),
        (lambda data: data[:8] + b"\0\0\0\0" + data[12:1024], "holds no token"),
        (lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:], "holds no token"),
    ],
)
def test_a_spoilt_shard_is_named(tmp_path, spoil, message):
    path = tmp_path / "x_train_000000.bin"
    write_shard(path, range(10))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        open_shard(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read: .*gone_train_000000.bin: No such file"):
        open_shard(tmp_path / "gone_train_000000.bin")


def test_find_shards_passes_over_the_side_car(tmp_path):
    names = ["fineweb_val_bytes_000000.bin", "fineweb_train_000010.bin", "fineweb_train_000002.bin", "notes.bin"]
    for name in [*names, "fineweb_val_000000.bin", "fineweb_val_000000.bin.tmp"]:
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path, "val")] == ["fineweb_val_000000.bin"]
    assert [path.name for path in find_shards(tmp_path, "train")] == [names[2], names[1]]


def test_a_corpus_named_like_a_split(tmp_path):
    (tmp_path / "my_val_000000_train_000000.bin").touch()
    assert len(find_shards(tmp_path, "train")) == 1
    with pytest.raises(UserError, match=r"needs val shards \(\*_val_000000.bin\), found none in"):
        find_shards(tmp_path, "val")


def test_read_tokens_joins_the_shards(tmp_path):
    paths = [tmp_path / f"x_val_{number:06d}.bin" for number in range(2)]
    write_shard(paths[0], [1, 2, 299])
    write_shard(paths[1], [4])
    tokens = read_tokens(paths, 300)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [1, 2, 299, 4]


def test_read_tokens_names_the_first_id_beyond_the_vocabulary(tmp_path):
    path = tmp_path / "x_val_000000.bin"
    write_shard(path, [1, 2, 299, 5, 400])
    with pytest.raises(UserError, match=r"below the vocabulary of 299, got 299 at position 2 of .*x_val_000000.bin"):
        read_tokens([path], 299)
