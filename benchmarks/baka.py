"""The claims of the BakaLLM posts at equal steps on a small corpus: three seeds each, mean and deviation.

Positions in `pristine` (rotary below NoPE below linspace), with a picture of the loss over the steps; in `baka` the
negations, attention's gate on the feed-forward part, the memory, and the suffix that part 11 of the posts repairs. A
row's value is how much lower the favoured variant's loss is, in nats a token. Finished curves are kept in
runs/baka_curves.json and not trained again.
"""

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.row import Row
from model.baka.block import BakaBlockConfig
from model.pristine.positions import LinspaceConfig, NopeConfig, RotaryConfig
from optim.trainer import StepReport
from recipes.baka import baka
from recipes.pristine import positioned, pristine
from recipes.recipe import Recipe, fingerprint
from recipes.stages import Validation, open_validation, plain_score, recipe_dataset
from runtime.files import write_bytes, write_text
from runtime.machine import Machine
from train_gpt import build_trainer

SEEDS = (1, 2, 3)
STEPS, EVERY, TOKENS_PER_STEP = 300, 25, 2048
# Longer than a chunk, so that memory and caches count; pristine's windows stay independent within it.
SCORED_WINDOW, SCORED_TOKENS = 2048, 32_768
CURVES = Path("runs/baka_curves.json")
PICTURE = Path(__file__).parent / "pristine_positions.png"

# Validation loss in nats a token at every `EVERY` steps.
Curve = list[float]


def with_blocks(**changes: object) -> Recipe:
    """`baka` with other blocks."""
    recipe = baka()
    block: BakaBlockConfig = replace(recipe.model.layers[0], **changes)
    return replace(recipe, model=replace(recipe.model, layers=(block,) * len(recipe.model.layers)))


def with_memory(**changes: object) -> Recipe:
    """`baka` with another memory."""
    recipe = baka()
    return replace(recipe, model=replace(recipe.model, memory=replace(recipe.model.memory, **changes)))


BAKA_VARIANTS: dict[str, Callable[[], Recipe]] = {
    "rotary": lambda: positioned(pristine(), RotaryConfig()),
    "nope": lambda: positioned(pristine(), NopeConfig()),
    "linspace": lambda: positioned(pristine(), LinspaceConfig()),
    "baka": baka,
    "no_negation": lambda: with_blocks(negation=False),
    "self_gated": lambda: with_blocks(mlp_gate="self"),
    "no_memory": lambda: with_memory(num_tokens=0),
    "previous_suffix": lambda: with_memory(suffix="previous"),
}
# (what the posts found to be better, than what)
CLAIMS = (
    ("rotary", "nope"),
    ("nope", "linspace"),
    ("baka", "no_negation"),
    ("baka", "self_gated"),
    ("baka", "no_memory"),
    ("previous_suffix", "baka"),
)


def short_run(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with this suite's steps and batches."""
    train = replace(recipe.train, seed=seed, seconds=None, steps=STEPS, tokens_per_step=TOKENS_PER_STEP)
    return replace(recipe, train=train)


def loss_curve(recipe: Recipe, machine: Machine) -> Curve:
    """Trains the recipe and scores the beginning of the validation split on the way."""
    dataset = recipe_dataset(recipe)
    whole = open_validation(dataset)
    validation, losses = Validation(whole.tokens[: SCORED_TOKENS + 1], whole.byte_table), []
    trainer = build_trainer(recipe, dataset, machine)

    def on_step(report: StepReport) -> None:
        if report.step % EVERY == 0:
            losses.append(plain_score(trainer.model, validation, SCORED_WINDOW, machine, 16_384).loss)

    with tempfile.TemporaryDirectory() as folder:
        trainer.run(on_step, Path(folder) / "checkpoint.safetensors")
    return losses


def kept_curves(machine: Machine) -> dict[str, list[Curve]]:
    """The curves of every variant, a seed after the other; those that runs/baka_curves.json lacks are trained.

    A curve is kept by the fingerprint of its recipe, so that none is taken for that of another.
    """
    kept: dict[str, Curve] = json.loads(CURVES.read_text(encoding="utf-8")) if CURVES.exists() else {}
    curves: dict[str, list[Curve]] = {name: [] for name in BAKA_VARIANTS}
    for seed in SEEDS:
        for name, variant in BAKA_VARIANTS.items():
            recipe = short_run(variant(), seed)
            key = fingerprint(recipe)
            if key not in kept:
                kept[key] = loss_curve(recipe, machine)
                write_text(CURVES, json.dumps(kept, indent=1) + "\n")
            curves[name].append(kept[key])
    return curves


def draw_positions(curves: dict[str, list[Curve]]) -> bytes:
    """A PNG: the mean loss over the steps of each variant, and the range of its seeds."""
    figure = Figure(figsize=(6, 4), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Dashes, because two of the curves lie on one another.
    for (name, held), style in zip(curves.items(), ("-", "-", "--"), strict=True):
        steps = [EVERY * (index + 1) for index in range(len(held[0]))]
        columns = list(zip(*held, strict=True))
        (line,) = axes.plot(steps, [mean(column) for column in columns], style, label=name)
        axes.fill_between(
            steps, *([f(column) for column in columns] for f in (min, max)), alpha=0.2, color=line.get_color()
        )
    axes.set(xlabel="steps", ylabel="validation loss, nats a token", title="pristine: mean and range of three seeds")
    axes.legend()
    figure.tight_layout()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def claim_row(better: str, than: str, curves: dict[str, list[Curve]]) -> Row:
    """How much lower the last loss of `better` is, the mean over the seeds."""
    ends = {name: [curve[-1] for curve in curves[name]] for name in (better, than)}
    said = ", ".join(f"{name} {mean(held):.4f} ± {stdev(held):.4f}" for name, held in ends.items())
    gain = mean(ends[than]) - mean(ends[better])
    note = f"{STEPS} steps of {TOKENS_PER_STEP:,} tokens; {said}"
    return Row(f"{better}_below_{than}", gain, "nats a token", (">=", 0.0), len(SEEDS), note)


def baka_rows(machine: Machine) -> list[Row]:
    """One row a claim, and benchmarks/pristine_positions.png."""
    curves = kept_curves(machine)
    write_bytes(PICTURE, draw_positions({name: curves[name] for name in ("rotary", "nope", "linspace")}))
    return [claim_row(better, than, curves) for better, than in CLAIMS]
