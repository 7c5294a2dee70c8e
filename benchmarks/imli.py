"""python -m benchmarks.imli: Imli's variants and its float twin after equally many tokens, read back from the bytes.

    python -m data build --corpus sotu --vocab 10000
    python -m benchmarks.imli --variants imli imli_a --seeds 1 2 3 --tokens 200000

All train with the same rate, warm-up and tokens a step, and are scored in windows of 256. Each run prints a line, the
means go to benchmarks/results.jsonl. The targets are the expected order: `imli` below its parent, its twin below it.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import tyro

from benchmarks.row import Row, report_rows
from compress.container import pack, unpack
from compress.expected import Expected
from eval.score import Score
from eval.sliding import EvalConfig
from optim.curriculum import Curriculum
from optim.trainer import TrainConfig
from quantize.activations import Int8PerToken
from quantize.plan import quantize
from recipes.imli import adamw, ternary, with_linear
from recipes.packed import model_from_codes, parameter_shapes
from recipes.recipe import Recipe, load_recipe
from recipes.stages import open_validation, recipe_dataset
from runtime.command import exit_with
from runtime.errors import UserError, nearest
from runtime.machine import Machine, start_machine
from train_gpt import build_trainer

TOKENS_PER_STEP = 1024
FLOAT = (
    "--model.layers.*.mixer.linear.weight_map none --model.layers.*.mlp.linear.weight_map none --pack.plan.0.store fp16"
)


def _int8(recipe: Recipe) -> Recipe:
    linear = replace(ternary(), activation_map=Int8PerToken())
    return replace(recipe, model=with_linear(recipe.model, linear))


IMLI_VARIANTS: dict[str, Callable[[], Recipe]] = {
    "imli": lambda: load_recipe("imli"),
    "imli_a": lambda: load_recipe("imli_a"),
    "imli_b": lambda: load_recipe("imli_b"),
    "imli_float": lambda: load_recipe("imli", FLOAT.split()),
    "imli_half_open": lambda: load_recipe("imli", ["--model.layers.*.mixer.gate_init_std", "0.02"]),
    "imli_int8": lambda: _int8(load_recipe("imli")),
}


@dataclass(frozen=True)
class ImliCommand:
    """Train Imli's variants on equally many tokens and compare them."""

    variants: tuple[str, ...] = ("imli", "imli_a", "imli_b", "imli_float")
    """Of imli, imli_a, imli_b, imli_float, imli_half_open (gates), imli_int8 (activations)."""
    seeds: tuple[int, ...] = (1,)
    """One run of each variant a seed."""
    tokens: int = 200_000
    """Training tokens of each run."""
    peak: float = 4e-3
    """The learning rate after the warm-up."""
    warmup_steps: int = 20
    """Of 1,024 tokens each."""


@dataclass(frozen=True)
class Outcome:
    """What one run came to: the score out of its bytes, their number, and the seconds that training took."""

    score: Score
    num_bytes: int
    seconds: float


def shortened(recipe: Recipe, command: ImliCommand, seed: int) -> Recipe:
    """The recipe with the command's budget and rates; a curriculum keeps its shares of the budget."""
    train, steps = recipe.train, command.tokens // TOKENS_PER_STEP
    share = steps * TOKENS_PER_STEP / (train.steps * train.tokens_per_step)
    return replace(
        recipe,
        train=replace(
            train,
            seed=seed,
            steps=steps,
            tokens_per_step=TOKENS_PER_STEP,
            checkpoint_every=None,
            curriculum=_shrunk(train, share),
        ),
        optim=adamw(command.peak, command.warmup_steps),
        eval=EvalConfig(window=256, stride=256, batch_tokens=16_384),
    )


def _shrunk(train: TrainConfig, share: float) -> Curriculum | None:
    if train.curriculum is None:
        return None
    return Curriculum(tuple(replace(stage, tokens=int(share * stage.tokens)) for stage in train.curriculum.stages))


def trained(recipe: Recipe, machine: Machine) -> Outcome:
    """Trains the recipe, packs it, and scores what comes out of the bytes on the validation split.

    Raises KeyboardInterrupt where SIGTERM stopped the training: half a run is no result.
    """
    dataset = recipe_dataset(recipe)
    trainer = build_trainer(recipe, dataset, machine)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer.run(lambda _: None, Path(folder, "checkpoint.safetensors"))
    seconds = time.perf_counter() - start
    if trainer.stopped_by_signal:
        raise KeyboardInterrupt
    coder, kinds = recipe.pack.coder, recipe.pack.kinds
    artifact = pack(quantize(trainer.weights, recipe.pack.plan), config={}, coder=coder, kinds=kinds)
    _, codes = unpack(artifact, lambda _: Expected(parameter_shapes(recipe.model), coder, kinds))
    validation = open_validation(dataset)
    model = model_from_codes(recipe.model, codes, machine)
    score, _ = recipe.eval.score(model, validation.tokens, validation.byte_table, machine)
    return Outcome(score, len(artifact), seconds)


def run_imli(command: ImliCommand) -> int:
    """Runs every variant with every seed; the exit code is 1 when the order is not the expected one."""
    for name in command.variants:
        if name not in IMLI_VARIANTS:
            raise UserError(f"unknown variant {name!r}; {nearest(name, IMLI_VARIANTS)}")
    machine = start_machine("fp32")
    recipes = {name: IMLI_VARIANTS[name]() for name in command.variants}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in recipes}
    for seed in command.seeds:
        for name, recipe in recipes.items():
            outcome = trained(shortened(recipe, command, seed), machine)
            outcomes[name].append(outcome)
            print(  # noqa: T201
                f"{name} seed:{seed} nats a token:{outcome.score.loss:.4f} bits per byte:{outcome.score.bpb:.4f} "
                f"bytes:{outcome.num_bytes} seconds:{outcome.seconds:.0f}",
                flush=True,
            )
    rows = outcome_rows(outcomes, command.tokens)
    return report_rows(rows, machine.hardware, " ".join(["python -m benchmarks.imli", *sys.argv[1:]]))


def outcome_rows(outcomes: dict[str, list[Outcome]], tokens: int) -> list[Row]:
    """A row for each variant: the mean of its seeds against that of the variant it is expected to beat, if it ran."""
    means = {name: mean(outcome.score.bpb for outcome in runs) for name, runs in outcomes.items()}
    better_than = {"imli": "imli_a", "imli_float": "imli"}
    return [
        Row(
            f"bpb_{name}",
            means[name],
            "bits per byte",
            ("<=", means.get(better_than.get(name, name), means[name])),
            len(runs),
            _note(runs, tokens),
        )
        for name, runs in outcomes.items()
    ]


def _note(runs: list[Outcome], tokens: int) -> str:
    scores = [outcome.score.bpb for outcome in runs]
    nats = mean(outcome.score.loss for outcome in runs)
    num_bytes = mean(outcome.num_bytes for outcome in runs)
    return f"{min(scores):.4f} to {max(scores):.4f}, {nats:.4f} nats a token, {num_bytes:,.0f} bytes, {tokens:,} tokens"


if __name__ == "__main__":
    exit_with(lambda: run_imli(tyro.cli(ImliCommand)))
