"""Runs of any recipe at a size that takes seconds, in this process or in one of its own."""

import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from recipes.override import leaves
from recipes.recipe import load_recipe, recipe_names
from runtime.machine import Machine

ROOT = Path(__file__).resolve().parent.parent
# Where a run of this process computes.
MACHINE = Machine(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
VOCAB = 320
# Recipes with a model of their own: those of the pocket track that are scaled ones of these are the same when tiny.
MODEL_RECIPES = [name for name in recipe_names() if "pocket" not in name]

# Two layers of width 32 in windows of 32, ten steps of two slices, fp32 so that every machine can compare.
TINY = {
    "model.vocab_size": VOCAB,
    "model.dim": 32,
    "model.layers.length": 2,
    "model.window": 8,
    "model.memory.num_tokens": 2,
    "model.layers.*.mixer.num_heads": 2,
    "model.layers.*.mixer.num_kv_heads": 1,
    "model.layers.*.mlp.hidden": 64,
    "train.tokens_per_step": 256,
    "train.window": 32,
    "train.curriculum.stages.0.window": 8,
    "train.curriculum.stages.0.tokens": 512,
    "train.curriculum.stages.1.window": 16,
    "train.curriculum.stages.1.tokens": 1024,
    "train.num_slices": 2,
    "train.seconds": "none",
    "train.steps": 10,
    "train.log_every": 1,
    "train.validate_every": "none",
    "train.checkpoint_every": 4,
    "train.compute_dtype": "fp32",
    # One step, or the whole budget, whichever kind of warm-down the recipe has: ten steps must learn something.
    "optim.warmdown.*": 1,
    "eval.window": 128,
    "eval.stride": 16,
}


def tiny(recipe: str = "demo", **changes: object) -> list[str]:
    """The overrides that make a recipe tiny, those of fields that it has; `train__steps=3` changes or adds one."""
    paths = [path for path, _ in leaves(load_recipe(recipe))]
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    values = {
        name: value
        for name, value in {**TINY, **changes}.items()
        if name in changes or name.endswith(".length") or any(fnmatchcase(path, name) for path in paths)
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def command(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python arguments` of this repository in `folder`, one thread a process, output as text."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
