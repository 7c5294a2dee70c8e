"""python -m benchmarks.rate [runs/ID ...] [--minilm]: what packing by rate saves, on trained weights.

The runs are finished ones of one recipe, with different seeds. Each is packed as pull request 465 packs, int5 and int6
and zstd-22; then by rate in as many bytes, to a thousandth; then by rate with the coarsest steps that score no worse.
Every score is read back from the bytes. The parts are taken apart on the last run. Moments that a run did not
keep are measured on batches of its training text.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import tyro
from torch import Tensor

from benchmarks.minilm import minilm_moments, minilm_weights
from benchmarks.row import Row, report_rows
from benchmarks.stack import stack_rows
from compress.container import pack, unpack
from compress.expected import Expected
from optim.trainer import Trainer
from quantize.grid import Codes
from quantize.plan import quantize
from recipes.by_rate import RateQuantizer, plan_with_steps
from recipes.int5_int6_pocket import int5_int6_pocket
from recipes.int5_int6_rate import rate_pack
from recipes.packed import model_from_codes
from recipes.recipe import PackConfig
from recipes.run_folder import RunFolder
from recipes.stages import Validation, open_validation, plain_score, recipe_dataset
from runtime.checkpoint import load_checkpoint
from runtime.command import exit_with
from runtime.errors import UserError
from runtime.machine import Machine, start_machine
from train_gpt import build_trainer

# Validation tokens that are scored, in windows that do not overlap.
SCORED = 65_536
# Steps between an eighth and four times the plan's, in octaves, are halved so often: to 0.04, a hundredth of the bytes.
FINEST, COARSEST, HALVINGS = -3.0, 2.0, 7


@dataclass(frozen=True)
class RateCommand:
    """Pack trained weights by widths and by rate, and compare."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders of one recipe, one a seed."""
    minilm: bool = False
    """Also take the parts apart on all-MiniLM-L6-v2, which a package ships."""


@dataclass(frozen=True)
class Comparison:
    """One run: bytes of the model and bits per byte by widths, by rate in as many bytes, and by rate as good."""

    width: tuple[int, float]
    equal_bytes: tuple[int, float]
    equal_score: tuple[int, float]


class Packer:
    """The weights and moments of a finished run, to be packed in several ways and scored from the bytes."""

    def __init__(self, run: RunFolder, machine: Machine) -> None:
        self.recipe, self.machine = run.recipe(), machine
        self.weights, _ = load_checkpoint(run.weights)
        dataset = recipe_dataset(self.recipe)
        whole = open_validation(dataset)
        self.validation = Validation(whole.tokens[: SCORED + 1], whole.byte_table)
        if run.moments.exists():
            self.moments, _ = load_checkpoint(run.moments)
        else:
            self.moments = fresh_moments(build_trainer(self.recipe, dataset, machine), self.weights)

    def compared(self) -> Comparison:
        """The three ways of packing. Raises UserError when no steps fit as many bytes as widths take."""
        widths, rate = int5_int6_pocket().pack, rate_pack(RateQuantizer(), budget=0)
        width = self.outcome(self.artifact(quantize(self.weights, widths.plan), widths), widths)
        rate = replace(rate, budget=width[0])
        packed = partial(self.artifact, pack_config=rate)
        codes = rate.quantizer.codes(self.weights, self.moments, rate, packed, 0, lambda _: None)
        equal_bytes = self.outcome(packed(codes), rate)
        return Comparison(width, equal_bytes, self.as_good(width[1], rate) or equal_bytes)

    def as_good(self, score: float, config: PackConfig) -> tuple[int, float] | None:
        """The smallest outcome by rate, of those tried, that scores no worse; coarser steps count as worse."""
        finest, coarsest, best = FINEST, COARSEST, None
        for _ in range(HALVINGS):
            middle = (finest + coarsest) / 2
            found = self.stepped(2**middle, config)
            finest, coarsest, best = (middle, coarsest, found) if found[1] <= score else (finest, middle, best)
        return best

    def stepped(self, multiplier: float, config: PackConfig) -> tuple[int, float]:
        codes = quantize(self.weights, plan_with_steps(config.plan, multiplier), hessians=self.moments)
        return self.outcome(self.artifact(codes, config), config)

    def artifact(self, codes: Codes, pack_config: PackConfig) -> bytes:
        return pack(codes, config={}, coder=pack_config.coder, kinds=pack_config.kinds)

    def outcome(self, artifact: bytes, config: PackConfig) -> tuple[int, float]:
        """Bytes, and bits per byte of what comes out of them."""
        _, codes = unpack(artifact, lambda _: Expected(coder=config.coder, kinds=config.kinds))
        model = model_from_codes(self.recipe.model, codes, self.machine)
        window, batch = self.recipe.train.window, self.recipe.eval.batch_tokens
        return len(artifact), plain_score(model, self.validation, window, self.machine, batch).bpb


class Untold:
    """Logs nothing."""

    def calibrated(self, trainer: Trainer) -> None:
        pass


def fresh_moments(trainer: Trainer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moments under these weights, over the first four steps' batches of training text."""
    trainer.model.load_state_dict(weights)
    return RateQuantizer(batches=4).moments(trainer, Untold())


def comparison_rows(comparisons: Sequence[Comparison]) -> list[Row]:
    """Means over the runs: scores in equal bytes, bytes at equal score, both against those by widths."""
    gains = [one.equal_bytes[1] - one.width[1] for one in comparisons]
    shares = [one.equal_score[0] / one.width[0] for one in comparisons]
    sizes = mean(one.width[0] for one in comparisons)
    how = f"first {SCORED:,} validation tokens, plain windows"
    return [
        Row(
            "equal_bytes_bpb",
            mean(gains),
            "bits per byte",
            ("<=", 0.0),
            len(gains),
            f"{spread_text(gains)}; by rate less by widths, {sizes:,.0f} bytes; {how}",
        ),
        Row(
            "equal_score_bytes",
            mean(shares),
            "of bytes",
            ("<=", 1.0),
            len(shares),
            f"{spread_text(shares)}; by rate over by widths; {how}",
        ),
    ]


def spread_text(values: Sequence[float]) -> str:
    """Deviation where there are several, and the largest.

    >>> spread_text([1.0, 2.0, 3.0])
    'deviation 1, largest 3'
    """
    deviation = f"deviation {stdev(values):.3g}, " if len(values) > 1 else ""
    return f"{deviation}largest {max(values):.4g}"


def run_rate(command: RateCommand) -> int:
    """Measures, prints and keeps the rows; the exit code is 1 when a target is missed."""
    if not command.runs and not command.minilm:
        raise UserError("rate takes finished runs, or --minilm; for example python -m benchmarks.rate runs/ID")
    machine, rows, comparisons = start_machine("fp32"), [], []
    for folder in command.runs:
        packer = Packer(RunFolder(folder), machine)
        comparisons.append(packer.compared())
        print(f"{folder}: {comparisons[-1]}", flush=True)  # noqa: T201
    if comparisons:
        rows += comparison_rows(comparisons)
        rows += stack_rows(packer.recipe.name, packer.weights, packer.moments)
    if command.minilm:
        weights = minilm_weights()
        rows += stack_rows("minilm", weights, minilm_moments(weights, machine))
    return report_rows(rows, machine.hardware, " ".join(["python -m benchmarks.rate", *sys.argv[1:]]))


if __name__ == "__main__":
    exit_with(lambda: run_rate(tyro.cli(RateCommand)))
