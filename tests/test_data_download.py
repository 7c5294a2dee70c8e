"""The published shards, from a stand-in for the hub on the loopback: what huggingface_hub asks of it, and no more."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from data.dataset import open_dataset
from data.download import HubLayout, download_dataset
from data.shards import open_shard, write_shard
from data.tokenizer import train_tokenizer
from runtime.errors import UserError

REPO = "someone/golf-data"
VOCAB = 300


class _HubStandIn(ThreadingHTTPServer):
    """Serves `folder` as the data set repository REPO; `cut` names files whose next transfer breaks off half way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.folder = folder
        self.cut: set[str] = set()
        self.broken: set[str] = set()
        self.served: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        match = re.fullmatch(rf"/datasets/{REPO}/resolve/main/(.+)", self.path)
        path = self.server.folder / match.group(1) if match else None
        if path is None or not path.is_file():
            self._head(404, 0, {"X-Error-Code": "EntryNotFound" if match else "RepoNotFound"})
            return
        if with_body and path.name in self.server.broken:
            self._head(500, 0, {})
            return
        body = path.read_bytes()
        etag = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": "a" * 40}
        asked = self.headers.get("Range")
        if with_body:
            self.server.served.append((path.name, asked))
        start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if asked else 0
        if asked:
            etag["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._head(206 if asked else 200, len(body) - start, etag)
        if with_body and path.name in self.server.cut:
            self.server.cut.remove(path.name)
            self.wfile.write(body[start : len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
        elif with_body:
            self.wfile.write(body[start:])

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def hub(tmp_path):
    """A hub with two training shards, two validation shards (the first one full at 5000 tokens) and a tokenizer."""
    shards = tmp_path / "hub/datasets/datasets/fineweb10B_sp300"
    random = np.random.default_rng(0)
    for name, count in {"train_000000": 5000, "train_000001": 5000, "val_000000": 5000, "val_000001": 700}.items():
        write_shard(shards / f"fineweb_{name}.bin", random.integers(4, VOCAB, count))
    texts = ["the cat sat on the mat with another cat " * 20, "dogs and cows and goats all over the place " * 20]
    train_tokenizer(texts, tmp_path / "hub/datasets/tokenizers/fineweb_300_bpe.model", vocab_size=VOCAB)
    server = _HubStandIn(tmp_path / "hub")
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def layout(hub):
    return HubLayout(repo=REPO, full_shard_tokens=5000, endpoint=hub.url)


def test_the_command_fetches_a_data_set_that_opens(hub, tmp_path):
    command = [
        "download",
        "--variant",
        "sp300",
        "--train-shards",
        "1",
        "--repo",
        REPO,
        "--root",
        str(tmp_path / "data"),
    ]
    surroundings = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "data", *command], env=surroundings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "1 train and 1 val shards" in done.stdout
    dataset = open_dataset(tmp_path / "data/datasets/fineweb10B_sp300", VOCAB)
    assert dataset.tokenizer_path.samefile(tmp_path / "data/tokenizers/fineweb_300_bpe.model")
    remote = hub.folder / "datasets/datasets/fineweb10B_sp300/fineweb_train_000000.bin"
    assert dataset.train_paths[0].read_bytes() == remote.read_bytes()


def test_a_full_validation_shard_is_followed_by_the_next(layout, tmp_path):
    result = download_dataset("sp300", train_shards=1, root=tmp_path / "data", layout=layout)
    assert result.val_shards == 2
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "fineweb_train_000000.bin",
        "fineweb_val_000000.bin",
        "fineweb_val_000001.bin",
    ]


def test_a_broken_transfer_goes_on_where_it_broke(hub, layout, tmp_path, monkeypatch):
    # huggingface_hub goes on at a multiple of this size, 10 MiB by default.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.cut.add("fineweb_train_000000.bin")
    result = download_dataset("sp300", train_shards=1, root=tmp_path / "data", layout=layout)
    asked = [span for name, span in hub.served if name == "fineweb_train_000000.bin"]
    # Half of 11,024 bytes came; whole pieces of 500 are kept.
    assert asked == [None, "bytes=5500-"]
    remote = hub.folder / "datasets/datasets/fineweb10B_sp300/fineweb_train_000000.bin"
    assert (result.folder / "fineweb_train_000000.bin").read_bytes() == remote.read_bytes()


def test_a_second_run_fetches_only_what_is_missing_or_not_whole(hub, layout, tmp_path):
    hub.broken.add("fineweb_train_000001.bin")
    with pytest.raises(UserError, match="fineweb_train_000001.bin cannot be fetched: .*run the command again"):
        download_dataset("sp300", train_shards=2, root=tmp_path / "data", layout=layout)
    folder = tmp_path / "data/datasets/fineweb10B_sp300"
    shard = folder / "fineweb_train_000000.bin"
    assert len(open_shard(shard)) == 5000
    hub.broken.clear()
    hub.served.clear()
    shard.write_bytes(shard.read_bytes()[:-2])
    result = download_dataset("sp300", train_shards=2, root=tmp_path / "data", layout=layout)
    assert result.fetched == ["fineweb_train_000000.bin", "fineweb_train_000001.bin"]
    assert [name for name, _ in hub.served] == result.fetched
    assert len(open_shard(shard)) == 5000
    hub.served.clear()
    assert download_dataset("sp300", train_shards=2, root=tmp_path / "data", layout=layout).fetched == []
    assert hub.served == []


def test_a_damaged_shard_on_the_hub_takes_no_place(hub, layout, tmp_path):
    remote = hub.folder / "datasets/datasets/fineweb10B_sp300/fineweb_val_000000.bin"
    remote.write_bytes(remote.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"fineweb_val_000000.bin is truncated: 5000 tokens"):
        download_dataset("sp300", train_shards=1, root=tmp_path / "data", layout=layout)
    assert not (tmp_path / "data/datasets/fineweb10B_sp300/fineweb_val_000000.bin").exists()


def test_more_train_shards_than_there_are(layout, tmp_path):
    with pytest.raises(UserError, match="holds 2 train shards, got --train-shards 3; nearest 2"):
        download_dataset("sp300", train_shards=3, root=tmp_path / "data", layout=layout)
    assert len(open_shard(tmp_path / "data/datasets/fineweb10B_sp300/fineweb_train_000001.bin")) == 5000


@pytest.mark.parametrize(
    ("variant", "train_shards", "message"),
    [
        ("1024", 1, "a variant is called sp and its number of pieces, got '1024'; nearest: sp1024"),
        ("sp512", 1, "must hold the variant, got 'sp512' and no .*fineweb_512_bpe.model; nearest: sp"),
        ("sp300", 0, "at least 1 shard, got --train-shards 0; nearest 1"),
    ],
)
def test_what_is_not_published(layout, tmp_path, variant, train_shards, message):
    with pytest.raises(UserError, match=message):
        download_dataset(variant, train_shards=train_shards, root=tmp_path / "data", layout=layout)
    assert not list(tmp_path.glob("data/datasets/*"))


def test_a_hub_out_of_reach(layout, tmp_path, monkeypatch):
    # As huggingface_hub raises it after half a minute of attempts.
    def fail(*_, **__):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub")

    monkeypatch.setattr("data.download.hf_hub_download", fail)
    with pytest.raises(UserError, match="the hub is out of reach; run the command again to go on"):
        download_dataset("sp300", train_shards=1, root=tmp_path / "data", layout=layout)


def test_an_unknown_repository(hub, tmp_path):
    layout = HubLayout(repo="someone/else", endpoint=hub.url)
    with pytest.raises(UserError, match="no public data set repository 'someone/else'; choose another by --repo"):
        download_dataset("sp300", train_shards=1, root=tmp_path / "data", layout=layout)
