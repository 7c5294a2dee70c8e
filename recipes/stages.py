"""The stages after training, each a function over the run folder: the commands call them, train_gpt.py composes them.

weights.safetensors -> quantize -> codes.safetensors -> compress -> model.bin, ledger.json -> eval -> score.json

Recipes that calibrate have moments.safetensors beside the weights.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from compress.ledger import Ledger, build_ledger, check_budget
from data.bytecount import ByteTable
from data.dataset import Dataset, open_dataset
from data.shards import read_tokens
from data.tokenizer import load_tokenizer
from eval.sample import sample_text
from eval.score import Score
from eval.sliding import EvalConfig, plain_windows, score_windows
from eval.streaming import StreamConfig
from quantize.codes_file import load_codes, save_codes
from quantize.grid import Codes
from quantize.plan import plan_grids, quantize
from recipes.packed import PackedModel, open_packed, pack_model
from recipes.recipe import Recipe
from recipes.run_folder import RunFolder
from runtime.checkpoint import checkpoint_facts, load_checkpoint
from runtime.errors import UserError
from runtime.files import sha256_of, write_bytes, write_text
from runtime.machine import Machine
from runtime.source import source_sizes


@dataclass(frozen=True)
class Validation:
    """The text that is scored: all validation tokens, and what each is worth in bytes."""

    tokens: Tensor  # [N + 1] int64
    byte_table: ByteTable

    @property
    def num_targets(self) -> int:
        return len(self.tokens) - 1

    @property
    def bytes_per_token(self) -> float:
        return float(self.byte_table.count(self.tokens[1:], self.tokens[:-1]).sum()) / self.num_targets


def recipe_dataset(recipe: Recipe) -> Dataset:
    """The recipe's data set, where DATA_PATH and TOKENIZER_PATH say it is."""
    folder = os.environ.get("DATA_PATH", recipe.data.folder)
    return open_dataset(folder, recipe.model.vocab_size, os.environ.get("TOKENIZER_PATH"))


def open_validation(dataset: Dataset) -> Validation:
    """The whole validation split of `dataset`, ids checked against the vocabulary."""
    table = ByteTable.from_tokenizer(load_tokenizer(dataset.tokenizer_path), dataset.vocab_size)
    return Validation(read_tokens(dataset.val_paths, dataset.vocab_size), table)


def plain_score(model, validation: Validation, window: int, machine: Machine, batch_tokens: int) -> Score:
    """Non-overlapping windows: the val_bpb that training reports."""
    windows = plain_windows(validation.num_targets, window)
    return score_windows(model, validation.tokens, windows, validation.byte_table, machine, batch_tokens)


def quantize_run(run: RunFolder, tell: Callable[[str], None] = lambda text: None) -> Codes:
    """weights.safetensors -> codes.safetensors by the recipe's plan; `tell` is given a line about fitted steps."""
    recipe = run.recipe()
    pack = recipe.pack
    if not run.weights.exists():
        raise UserError(f"{run.weights} is missing: the run has not finished training; train_gpt.py writes it")
    weights, _ = load_checkpoint(run.weights)
    if pack.quantizer:
        if not run.moments.exists():
            raise UserError(f"{run.moments} is missing: recipe {recipe.name} calibrates; train_gpt.py writes it")
        # The quantiser computes where the moments are.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        moments = {name: moment.to(device) for name, moment in load_checkpoint(run.moments)[0].items()}
        size = sum(source_sizes(run.code).values())
        codes = pack.quantizer.codes(weights, moments, pack, partial(packed_bytes, run), size, tell)
    else:
        codes = quantize(weights, pack.plan, pack.prune)
    save_codes(run.codes, codes)
    return codes


def packed_bytes(run: RunFolder, codes: Codes) -> bytes:
    """The artifact that codes of this run become."""
    recipe = run.recipe()
    # Weights of a run before dtypes were kept do not say; None leaves it to the machine that reads them.
    dtype = checkpoint_facts(run.weights).get("compute_dtype")
    overrides = [*run.facts()["overrides"], f"--train.compute_dtype={dtype}"]
    return pack_model(recipe, overrides, codes, sha256_of(recipe_dataset(recipe).tokenizer_path))


def compress_run(run: RunFolder) -> Ledger:
    """codes.safetensors -> model.bin and ledger.json. Raises UserError over budget, after both are written."""
    recipe = run.recipe()
    if not run.codes.exists():
        raise UserError(f"{run.codes} is missing; python -m quantize {run.path} writes it")
    artifact = packed_bytes(run, load_codes(run.codes, plan_grids(recipe.pack.plan)))
    write_bytes(run.artifact, artifact)
    ledger = build_ledger(artifact, source_sizes(run.code), recipe.pack.budget, recipe.pack.kinds)
    write_text(run.ledger, json.dumps(ledger.to_json(), indent=1) + "\n")
    check_budget(ledger)
    return ledger


@dataclass(frozen=True)
class EvalReport:
    """A score from the bytes alone, and how it was made."""

    score: Score
    config: EvalConfig | StreamConfig
    seconds: float
    tokens_run: int  # through the trunk, overlap included
    artifact_bytes: int
    artifact_sha256: str

    def to_json(self) -> str:
        """What score.json holds."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_dict(self) -> dict:
        """The figures by name, losses in nats a token, times in seconds."""
        score = self.score
        return {
            **self.config.claim,
            "val_loss": score.loss,
            "val_bpb": score.bpb,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "implied_bytes": score.implied_bytes,
            "seconds": self.seconds,
            "tokens_run": self.tokens_run,
            "artifact_bytes": self.artifact_bytes,
            "artifact_sha256": self.artifact_sha256,
        }

    def line(self) -> str:
        score, claim = self.score, self.config.claim
        how = " ".join([claim.pop("protocol").split()[0], *(f"{name}={value}" for name, value in claim.items())])
        return (
            f"{how} val_loss:{score.loss:.8f} val_bpb:{score.bpb:.8f} "
            f"tokens:{score.tokens} bytes:{score.bytes} implied_bytes:{score.implied_bytes:.1f} "
            f"eval_time:{1000 * self.seconds:.0f}ms"
        )


def eval_artifact(
    path: Path,  # model.bin; nothing else of the run is read
    machine: Machine,
    choose: Callable[[Recipe], EvalConfig | StreamConfig] = lambda recipe: recipe.eval,
) -> tuple[EvalReport, PackedModel]:
    """Scores the packed model on the validation split as `choose` says, every token once."""
    packed = open_packed(path, machine)
    config = choose(packed.recipe)
    dataset = recipe_dataset(packed.recipe)
    if sha256_of(dataset.tokenizer_path) != packed.tokenizer_sha256:
        raise UserError(
            f"the packed model speaks the tokens of another tokenizer: {dataset.tokenizer_path} has SHA-256 "
            f"{sha256_of(dataset.tokenizer_path)[:16]}..., the model wants {packed.tokenizer_sha256[:16]}..."
        )
    validation = open_validation(dataset)
    start = time.perf_counter()
    score, num_run = config.score(packed.model, validation.tokens, validation.byte_table, machine)
    seconds = time.perf_counter() - start
    return EvalReport(score, config, seconds, num_run, path.stat().st_size, sha256_of(path)), packed


def sample_packed(
    packed: PackedModel, prompt: str, *, num_tokens: int, temperature: float, top_k: int, seed: int
) -> str:
    """Text from a packed model.

    Raises UserError when prompt and continuation do not fit one window, unless the model's state is bounded.
    """
    tokenizer = load_tokenizer(recipe_dataset(packed.recipe).tokenizer_path)
    if not packed.recipe.model.has_bounded_state:
        window = packed.recipe.eval.window
        room = window - 1 - len(tokenizer.encode(prompt))
        if num_tokens > room:
            raise UserError(
                f"prompt and text must fit the window of {window} tokens, got {num_tokens} tokens to write; "
                f"nearest {max(0, room)}"
            )
    return sample_text(
        packed.model, tokenizer, prompt, num_tokens=num_tokens, temperature=temperature, top_k=top_k, seed=seed
    )
