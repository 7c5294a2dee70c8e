"""How much of the machine's bf16 matrix peak training and evaluation reach; peak and work are measured in turn."""

import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median

import torch

from benchmarks.row import Row, median_row
from eval.sliding import Window, plan_windows, score_windows, tokens_run
from model.flops import forward_flops_per_token, training_flops_per_token
from optim.schedule import Progress
from optim.trainer import Trainer
from recipes.recipe import Recipe, load_recipe
from recipes.stages import Validation, open_validation, recipe_dataset
from runtime.checkpoint import save_checkpoint
from runtime.log import RunLog
from runtime.machine import Machine
from runtime.peak import matmul_peak
from train_gpt import build_trainer

ROUNDS = 7
STEPS_A_ROUND = 4
# The hybrid for CPUs with the heads of `hybrid`, keys of 64 and values of 128, and half as wide as that.
SMALL_HYBRID = ["--model.dim=256", "--model.layers.*.mlp.hidden=640"]


def _peak(machine: Machine) -> float:
    """The bf16 peak now, on matrices of 2048 (CPU) or 8192 (GPU)."""
    return matmul_peak(machine.device, torch.bfloat16, size=8192 if machine.on_cuda else 2048, repeats=3)


def train_seconds(trainer: Trainer, steps: int) -> float:
    """Wall time of `steps` training steps."""
    trainer.machine.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        trainer._one_step(Progress(trainer.step, 0.0, None, None))
    trainer.machine.synchronize()
    return time.perf_counter() - start


def training_share(machine: Machine, recipe: Recipe, target: float = 0.40) -> Row:
    """Model FLOPs a second of training, without the head's, over the peak."""
    trainer = build_trainer(recipe, recipe_dataset(recipe), machine)
    train_seconds(trainer, 3)
    flops_per_token = training_flops_per_token(recipe.model, recipe.train.window, head=False)
    peaks, shares, rates = [], [], []
    for _ in range(ROUNDS):
        peaks.append(_peak(machine))
        before = trainer.tokens
        seconds = train_seconds(trainer, STEPS_A_ROUND)
        rates.append((trainer.tokens - before) / seconds)
        shares.append(rates[-1] * flops_per_token / peaks[-1])
    note = f"{recipe.name}, {median(rates):,.0f} tok/s, peak {median(peaks) / 1e9:.0f} GFLOP/s, {machine.compute_dtype}"
    return median_row(f"training_share_{recipe.name}", shares, "of bf16 peak", (">=", target), note)


def evaluation_share(machine: Machine, recipe: Recipe) -> Row:
    """Forward FLOPs a second of sliding evaluation, as above, over the peak; overlap counts as the work that it is."""
    model = recipe.model.build(machine.compute_dtype).reset_parameters(0).to(machine.device).eval()
    validation = open_validation(recipe_dataset(recipe))
    config = recipe.eval
    windows = plan_windows(validation.num_targets, config.window, config.stride)[1 : 1 + 256]
    flops = tokens_run(windows) * forward_flops_per_token(recipe.model, config.window, head=False)
    _score(model, validation, windows, machine, config.batch_tokens)
    peaks, shares = [], []
    for _ in range(ROUNDS):
        peaks.append(_peak(machine))
        start = time.perf_counter()
        _score(model, validation, windows, machine, config.batch_tokens)
        machine.synchronize()
        shares.append(flops / (time.perf_counter() - start) / peaks[-1])
    note = f"{recipe.name}, window {config.window}, stride {config.stride}, peak {median(peaks) / 1e9:.0f} GFLOP/s"
    return median_row(f"sliding_share_{recipe.name}", shares, "of bf16 peak", (">=", 0.40), note)


def _score(model, validation: Validation, windows: list[Window], machine: Machine, batch_tokens: int) -> None:
    score_windows(model, validation.tokens, windows, validation.byte_table, machine, batch_tokens)


def streaming_ratio(machine: Machine, recipe: Recipe) -> Row:
    """Tokens a second of scoring as a stream, over those in windows without a state between them, in turn."""
    model = recipe.model.build(machine.compute_dtype).reset_parameters(0).to(machine.device).eval()
    whole = open_validation(recipe_dataset(recipe))
    validation = Validation(whole.tokens[: 64 * recipe.train.window + 1], whole.byte_table)
    windows = plan_windows(validation.num_targets, recipe.train.window, recipe.train.window)
    ratios, rates = [], []
    for _ in range(ROUNDS):
        in_windows = _timed(lambda: _score(model, validation, windows, machine, recipe.eval.batch_tokens))
        streamed = _timed(lambda: recipe.eval.score(model, validation.tokens, validation.byte_table, machine))
        ratios.append(in_windows / streamed)
        rates.append(validation.num_targets / streamed)
    note = f"{recipe.name}, {median(rates):,.0f} tok/s as a stream, {recipe.eval.claim}"
    return median_row(f"streaming_ratio_{recipe.name}", ratios, "of windows", (">=", 0.5), note)


def overhead_share(machine: Machine, recipe: Recipe, folder: Path) -> Row:
    """Loader, log and checkpoints over a training step, each at the recipe's own cadence."""
    trainer = build_trainer(recipe, recipe_dataset(recipe), machine)
    train_seconds(trainer, 3)
    log, shares = RunLog(folder), []
    for _ in range(ROUNDS):
        step = train_seconds(trainer, STEPS_A_ROUND) / STEPS_A_ROUND
        loading = recipe.train.num_slices / machine.world_size * _timed(trainer.loader.next)
        with redirect_stdout(StringIO()):
            logging = _timed(lambda: log.line("step:1/1 train_loss:1.0", event="step", step=1))
        saving = _timed(lambda: save_checkpoint(folder / "checkpoint.safetensors", *trainer.state()))
        cost = loading + logging / recipe.train.log_every + saving / recipe.train.checkpoint_every
        shares.append(cost / step)
    log.close()
    note = f"last: loader {1e3 * loading:.2f} ms, checkpoint {1e3 * saving:.0f} ms, step {1e3 * step:.0f} ms"
    return median_row(f"overhead_share_{recipe.name}", shares, "of a step", ("<=", 0.03), note)


def _timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def throughput_rows(machine: Machine, folder: Path) -> list[Row]:
    """The three ratios of the demo recipe, how well the others train, and how fast a stream is scored."""
    recipe = load_recipe("demo")
    return [
        training_share(machine, recipe),
        training_share(machine, load_recipe("hybrid_pocket", SMALL_HYBRID), target=0.30),
        training_share(machine, load_recipe("baka"), target=0.25),
        training_share(machine, load_recipe("pristine"), target=0.25),
        streaming_ratio(machine, load_recipe("baka")),
        evaluation_share(machine, recipe),
        overhead_share(machine, recipe, folder),
    ]
