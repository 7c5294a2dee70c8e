"""The published FineWeb shards and tokenizers, through huggingface_hub [1].

Shards that lie there whole (header and size agree) are not fetched again, so an interrupted download goes on with the
shard it was at. Inside one shard huggingface_hub itself goes on after a broken connection; a killed process starts that
shard anew.

[1] openai/parameter-golf: names and counts of its published data set.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from data.shards import open_shard
from data.tokenizer import load_tokenizer
from runtime.errors import UserError, nearest
from runtime.files import unwritable

PUBLISHED_VARIANTS = ("sp1024", "sp4096", "sp8192", "sp16384")


@dataclass(frozen=True)
class HubLayout:
    """Where a dataset repository keeps its files; the defaults are the organisers'."""

    repo: str = "willdepueoai/parameter-golf"
    shard_folder: str = "datasets/datasets/fineweb10B_{variant}"
    tokenizer: str = "datasets/tokenizers/fineweb_{vocab}_bpe.model"
    # A validation split goes on in a next shard only when this one is full.
    full_shard_tokens: int = 100_000_000
    endpoint: str | None = None  # None: the hub, or what HF_ENDPOINT says


@dataclass(frozen=True)
class DownloadResult:
    """What lies on disk now, and which of it was fetched just now."""

    folder: Path
    tokenizer_path: Path
    train_shards: int
    val_shards: int
    fetched: list[str] = field(default_factory=list)


def download_dataset(
    variant: str,  # "sp1024": the tokenizer's number of pieces
    *,
    train_shards: int,  # how many, from the first on; usually 100,000,000 tokens (200 MB) each
    root: str | Path = "data",  # gets datasets/fineweb10B_VARIANT/ and tokenizers/
    layout: HubLayout | None = None,  # None: the organisers' repository
    say: Callable[[str], None] = lambda line: None,  # hears one line a file
) -> DownloadResult:
    """Fetches the tokenizer, all validation shards and the first `train_shards` training shards that are not there yet.

    Raises UserError for a variant or a number of shards that the repository does not hold, and when it is out of reach;
    whole shards that were fetched before stay.
    """
    vocab = re.fullmatch(r"sp(\d+)\w*", variant)
    if not vocab:
        raise UserError(f"a variant is called sp and its number of pieces, got {variant!r}; {_near(variant)}")
    if train_shards < 1:
        raise UserError(f"training needs at least 1 shard, got --train-shards {train_shards}; nearest 1")
    layout = layout or HubLayout()
    folder = Path(root, "datasets", f"fineweb10B_{variant}")
    # Beside the data set, so that nothing is there before its first whole shard.
    fetcher = _Fetcher(layout, folder.with_name(f".{folder.name}.hub"), say)
    try:
        tokenizer_path = _fetch_tokenizer(fetcher, Path(root), layout, variant, vocab.group(1))
        remote = layout.shard_folder.format(variant=variant)
        num_val = _fetch_val(fetcher, folder, remote, layout.full_shard_tokens)
        _fetch_train(fetcher, folder, remote, train_shards)
    except EntryNotFoundError as error:
        raise UserError(
            f"the repository {layout.repo} must hold the variant, got {variant!r} and no {fetcher.asked}; "
            f"{_near(variant)}, or a mirror by --repo"
        ) from error
    finally:
        shutil.rmtree(fetcher.staging, ignore_errors=True)
    return DownloadResult(folder, tokenizer_path, train_shards, num_val, fetcher.fetched)


class _Fetcher:
    """Brings single files of one repository to their places, each checked before it takes its name."""

    def __init__(self, layout: HubLayout, staging: Path, say: Callable[[str], None]) -> None:
        self.repo, self.endpoint, self.staging, self.say = layout.repo, layout.endpoint, staging, say
        self.asked = ""
        self.fetched: list[str] = []

    def bring(self, remote: str, target: Path, check: Callable[[Path], object]) -> None:
        """Makes sure that `target` is whole; raises EntryNotFoundError when the repository lacks it."""
        self.asked = remote
        if target.is_file() and _passes(check, target):
            self.say(f"{target} is whole")
            return
        self.say(f"{target} from {self.repo}/{remote}")
        path = self._download(remote)
        check(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except OSError as error:
            raise unwritable(target, error) from error
        self.fetched.append(target.name)

    def _download(self, remote: str) -> Path:
        try:
            path = hf_hub_download(
                self.repo, remote, repo_type="dataset", local_dir=self.staging, endpoint=self.endpoint
            )
            return Path(path)
        except RepositoryNotFoundError as error:
            raise UserError(
                f"the hub has no public data set repository {self.repo!r}; choose another by --repo"
            ) from error
        except LocalEntryNotFoundError as error:
            raise UserError(
                f"{remote} cannot be fetched: the hub is out of reach; run the command again to go on"
            ) from error
        except EntryNotFoundError:
            raise
        # huggingface_hub lets the errors of its HTTP library through, and which library that is depends on its version.
        except Exception as error:
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{remote} cannot be fetched: {first_line}; run the command again to go on") from error


def _fetch_tokenizer(fetcher: _Fetcher, root: Path, layout: HubLayout, variant: str, vocab: str) -> Path:
    target = root / "tokenizers" / f"fineweb_{vocab}_bpe.model"
    fetcher.bring(layout.tokenizer.format(variant=variant, vocab=vocab), target, load_tokenizer)
    return target


def _fetch_val(fetcher: _Fetcher, folder: Path, remote: str, full: int) -> int:
    number = 0
    while True:
        name = f"fineweb_val_{number:06d}.bin"
        try:
            fetcher.bring(f"{remote}/{name}", folder / name, open_shard)
        except EntryNotFoundError:
            # A first shard must be there; that a full one was the last is no fault.
            if number == 0:
                raise
            return number
        number += 1
        if len(open_shard(folder / name)) < full:
            return number


def _fetch_train(fetcher: _Fetcher, folder: Path, remote: str, count: int) -> None:
    for number in range(count):
        name = f"fineweb_train_{number:06d}.bin"
        try:
            fetcher.bring(f"{remote}/{name}", folder / name, open_shard)
        except EntryNotFoundError as error:
            if number == 0:
                raise
            raise UserError(
                f"the repository {fetcher.repo} holds {number} train shards, got --train-shards {count}; "
                f"nearest {number}"
            ) from error


def _passes(check: Callable[[Path], object], path: Path) -> bool:
    try:
        check(path)
    except UserError:
        return False
    return True


def _near(variant: str) -> str:
    return nearest(variant, PUBLISHED_VARIANTS)
