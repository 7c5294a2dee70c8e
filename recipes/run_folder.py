"""runs/ID: one folder a run, one file a stage.

recipe.json  train.log  log.jsonl  checkpoint.safetensors  weights.safetensors  moments.safetensors  codes.safetensors
model.bin  ledger.json  score.json  sample.txt  code/train_gpt.py  train_gpt_readable.py
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from compress.bundle import bundle_recipe
from recipes.recipe import Recipe, fingerprint, load_recipe
from runtime.errors import UserError
from runtime.files import read_bytes, write_bytes, write_text
from runtime.source import CODE_FILE, READABLE_FILE, repository_root


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @classmethod
    def named(cls, run_id: str) -> "RunFolder":
        """The folder of run `run_id` under runs/, whether it is there or not."""
        return cls(Path("runs") / run_id)

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def moments(self) -> Path:
        return self.path / "moments.safetensors"

    @property
    def codes(self) -> Path:
        return self.path / "codes.safetensors"

    @property
    def artifact(self) -> Path:
        return self.path / "model.bin"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.json"

    @property
    def score(self) -> Path:
        return self.path / "score.json"

    @property
    def sample(self) -> Path:
        return self.path / "sample.txt"

    @property
    def code(self) -> Path:
        return self.path / "code"

    def recipe(self) -> Recipe:
        """The run's recipe, rebuilt. Raises UserError when the folder is no run or its recipe has changed since."""
        facts = self.facts()
        recipe = load_recipe(facts["recipe"], facts["overrides"])
        if fingerprint(recipe) != facts["fingerprint"]:
            raise UserError(
                f"{self.path} was made with another version of recipe {facts['recipe']!r} (fingerprint "
                f"{facts['fingerprint']}, now {fingerprint(recipe)}); its own source is in {self.code}"
            )
        return recipe

    def facts(self) -> dict:
        """recipe.json. Raises UserError when it is missing or not JSON."""
        text = read_bytes(self.recipe_file, "the recipe of a run folder")
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.recipe_file} is not JSON: {error}") from error


def open_run(recipe: Recipe, overrides: list[str], run_id: str, main: bool) -> RunFolder:
    """The folder of run `run_id`: a new one, or the one that an earlier start of the same recipe left.

    Raises UserError when it holds a run of another recipe. Only the `main` rank writes.
    """
    run = RunFolder.named(run_id)
    if run.recipe_file.exists():
        held = run.facts()
        if held["fingerprint"] != fingerprint(recipe):
            raise UserError(
                f"{run.path} is a run of {' '.join([held['recipe'], *held['overrides']])}, not of "
                f"{' '.join([recipe.name, *overrides])}; give this run another RUN_ID"
            )
    elif main:
        write_code(recipe.name, run)
        facts = {
            "recipe": recipe.name,
            "overrides": list(overrides),
            "fingerprint": fingerprint(recipe),
            "seed": recipe.train.seed,
            "started": datetime.now().isoformat(timespec="seconds"),
            "train_seconds_cap": recipe.train.seconds,
            "budget": recipe.pack.budget,
            "record": asdict(recipe.record),
        }
        write_text(run.recipe_file, json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return run


def write_code(recipe: str, run: RunFolder) -> None:
    """Makes the code of a run: the counted file of its recipe, alone in its folder, and the readable twin outside."""
    bundle = bundle_recipe(recipe, repository_root())
    write_bytes(run.code / CODE_FILE, bundle.counted)
    write_text(run.path / READABLE_FILE, bundle.readable)


def choose_run_id(recipe: Recipe) -> str:
    """RUN_ID from the environment; else the recipe and torchrun's id, which survives restarts; else recipe and time."""
    elastic = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if chosen := os.environ.get("RUN_ID"):
        return chosen
    if elastic != "none":
        return f"{recipe.name}-{elastic[:8]}"
    return f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
