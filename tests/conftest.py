"""What many tests share: a tiny data set, and runs of any recipe on it."""

import random
from pathlib import Path

import pytest
import torch
from tiny_runs import VOCAB, tiny

from data.build import build_dataset
from data.corpus import Document
from data.manifest import BuildOptions
from train_gpt import main

# Tiny models gain nothing from a second thread, and two threads that wait for each other lose much on a busy machine.
torch.set_num_threads(1)

WORDS = ("the union of states shall secure peace and liberty " * 2 + "to every citizen by law in this congress").split()


def build_tiny_data(folder: Path) -> Path:
    """60 invented speeches with a tokenizer of 320 pieces, as a data set in `folder`."""
    draw = random.Random(16)
    documents = []
    for index in range(60):
        words = (draw.choice(WORDS) + draw.choice(("", "", ",", ".\n")) for _ in range(120))
        documents.append(Document(f"speech-{index}", " ".join(words)))
    options = BuildOptions(
        corpus="tiny", source="tests", vocab_size=VOCAB, normalisation="identity", val_one_in=8, split_field=None
    )
    build_dataset(documents, folder, options)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set, built once."""
    return build_tiny_data(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture
def workplace(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in: runs/ and records/ appear here, DATA_PATH points to the tiny data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_PATH", str(tiny_data))
    monkeypatch.delenv("SEED", raising=False)
    return tmp_path


@pytest.fixture
def run_tiny(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs train_gpt.py in this process: run_tiny("demo", "id", train__steps=3) -> the run folder."""

    def run(recipe: str, run_id: str, **changes: object) -> Path:
        monkeypatch.setenv("RUN_ID", run_id)
        assert main([recipe, *tiny(recipe, **changes)]) == 0
        return workplace / "runs" / run_id

    return run
