"""What a run says: header, steps, validation, stages, ledger, each as a line for people and as facts for programs.

Step and validation lines follow the grammar of the competition's scripts, which its parsers read:

    step:N/20000 train_loss:… train_time:…ms step_avg:…ms
    step:N/20000 val_loss:… val_bpb:… train_time:…ms step_avg:…ms
"""

import math
import platform
import sys

import torch

from compress.ledger import Ledger
from eval.score import Score
from model.flops import training_flops_per_token
from optim.trainer import StepReport, Trainer
from quantize.grid import Codes
from quantize.plan_table import plan_table
from recipes.recipe import Recipe, fingerprint
from recipes.run_folder import RunFolder
from recipes.stages import EvalReport
from runtime.log import RunLog
from runtime.machine import Machine, dtype_name
from runtime.source import source_hash


class Teller:
    """Knows the recipe and the machine, and turns what happens into lines of the log."""

    def __init__(self, log: RunLog, recipe: Recipe, machine: Machine, bytes_per_token: float) -> None:
        self.recipe, self.machine = recipe, machine
        self._log = log
        self._bits_per_nat = 1 / math.log(2) / bytes_per_token
        self._flops_per_token = training_flops_per_token(recipe.model, recipe.train.window)

    def header(self, run: RunFolder, trainer: Trainer, resumed: bool) -> None:
        """Who runs what on which machine, the optimiser's groups and the plan of the quantiser."""
        recipe, machine = self.recipe, self.machine
        parameters = sum(weight.numel() for weight in trainer.weights.values())
        facts = {
            "event": "resume" if resumed else "start",
            "recipe": recipe.name,
            "fingerprint": fingerprint(recipe),
            "seed": recipe.train.seed,
            "run": str(run.path),
            "parameters": parameters,
            "code_sha256": source_hash(run.code),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "hardware": machine.hardware,
            "world_size": machine.world_size,
            "compute_dtype": dtype_name(machine.compute_dtype),
            "bf16_peak_gflops": machine.peak_flops / 1e9,
            "fp32_peak_gflops": machine.fp32_peak_flops / 1e9,
            "step": trainer.step,
        }
        self._log.line(
            f"recipe {recipe.name} (fingerprint {facts['fingerprint']}) seed:{recipe.train.seed} run:{run.path}\n"
            f"Python {facts['python']} PyTorch {facts['torch']} on {facts['hardware']}, {machine.world_size} rank(s)\n"
            f"code sha256:{facts['code_sha256']}\n"
            f"model_params:{parameters} compute:{facts['compute_dtype']} "
            f"bf16_peak:{facts['bf16_peak_gflops']:.1f} fp32_peak:{facts['fp32_peak_gflops']:.1f} GFLOP/s a rank",
            **facts,
        )
        if not machine.on_cuda and machine.compute_dtype is torch.float32 and recipe.train.compute_dtype is None:
            self._log.line("this CPU multiplies bf16 matrices no faster than fp32 ones: computing in fp32")
        self._log.line(trainer.optimizers.routes_table())
        self._log.line(plan_table({name: tuple(p.shape) for name, p in trainer.weights.items()}, recipe.pack.plan))
        if resumed:
            self._log.line(f"resuming at step {trainer.step}, {trainer.clock.seconds():.1f} s of training done")

    def step(self, report: StepReport) -> None:
        """The live line at every step, a log line every `log_every`."""
        train = self.recipe.train
        if is_logged(report, self.recipe):
            self._log.line(
                step_text(report, self.recipe),
                event="step",
                step=report.step,
                train_loss=report.loss,
                grad_norm=report.grad_norm,
                lr_multiplier=report.multiplier,
                train_seconds=report.seconds,
            )
        rate = report.step * train.tokens_per_step / report.seconds
        share = rate * self._flops_per_token / (self.machine.peak_flops * self.machine.world_size)
        left = f"{max(0.0, train.seconds - report.seconds):.0f} s left" if train.seconds else ""
        self._log.progress(
            f"step {report.step} loss {report.loss:.3f} bpb {report.loss * self._bits_per_nat:.3f} "
            f"{rate / 1e3:.1f}k tok/s {100 * share:.0f}% of peak {left}",
            report.seconds if train.seconds else report.step,
            train.seconds or train.steps,
        )

    def validation(self, label: str, trainer: Trainer, score: Score) -> None:
        """A non-overlapping validation; `label` says of which weights."""
        self._log.line(
            validation_text(label, trainer, score),
            event="validation",
            weights=label,
            step=trainer.step,
            val_loss=score.loss,
            val_bpb=score.bpb,
            train_seconds=trainer.clock.seconds(),
        )

    def end_of_training(self, trainer: Trainer) -> None:
        """Why and where training ended, and what it needed."""
        self._log.end_progress()
        if trainer.stopped_by_signal:
            self._log.line(stop_text(trainer), event="stopped", step=trainer.step)
            return
        if text := stop_text(trainer):
            self._log.line(text)
        facts = self._trained(trainer)
        self._log.line(
            f"tokens:{facts['tokens']} epochs:{trainer.loader.epochs:.2f} "
            f"tok/s:{facts['tokens'] / facts['train_seconds']:.0f} model_flops:{facts['model_flops']:.4e} "
            f"share_of_bf16_peak:{facts['share_of_peak']:.3f}\n"
            f"peak memory allocated: {facts['peak_memory_bytes'] / 2**20:.0f} MiB",
            **facts,
        )

    def _trained(self, trainer: Trainer) -> dict:
        """What training has needed until now, as an event; the last one of a log is the one that counts."""
        seconds, tokens = trainer.clock.seconds(), trainer.tokens
        flops, peak = tokens * self._flops_per_token, self.machine.peak_flops * self.machine.world_size
        return {
            "event": "trained",
            "step": trainer.step,
            "tokens": tokens,
            "train_seconds": seconds,
            "model_flops": flops,
            "share_of_peak": flops / seconds / peak,
            "peak_memory_bytes": self.machine.peak_memory_bytes(),
        }

    def calibrated(self, trainer: Trainer) -> None:
        """That training batches were measured for the quantiser, by which training has become longer."""
        self._log.line(calibration_text(trainer), **self._trained(trainer))

    def note(self, text: str) -> None:
        """A line for people alone."""
        self._log.line(text)

    def codes(self, codes: Codes) -> None:
        """That the weights were quantised."""
        self._log.line(f"quantized {len(codes)} tensors by the plan of {self.recipe.name}", event="quantized")

    def ledger(self, ledger: Ledger) -> None:
        """Who costs how many bytes."""
        log_ledger(self._log, self.recipe, ledger)

    def final(self, report: EvalReport) -> None:
        """The score of the record: from the bytes of model.bin alone."""
        log_final(self._log, self.recipe, report)

    def sample(self, text: str) -> None:
        """A text that the packed model wrote."""
        self._log.line(f"sample from model.bin: {text!r}", event="sample", text=text)

    def record(self, folder: object) -> None:
        """Where the record lies; on the screen alone, since the log is part of it."""
        sys.stdout.write(f"record: {folder}\n")

    def close(self) -> None:
        self._log.close()


def is_logged(report: StepReport, recipe: Recipe) -> bool:
    """Whether a step has a line of its own: the first one and every `log_every`."""
    return report.step % recipe.train.log_every == 0 or report.step == 1


def step_text(report: StepReport, recipe: Recipe) -> str:
    """The line of a step."""
    return (
        f"step:{report.step}/{recipe.train.steps or 0} train_loss:{report.loss:.4f} "
        f"{_times(report.step, report.seconds)} grad_norm:{report.grad_norm:.3f} lr_multiplier:{report.multiplier:.3f}"
    )


def validation_text(label: str, trainer: Trainer, score: Score) -> str:
    """The line of a validation; `label` says of which weights."""
    return (
        f"step:{trainer.step}/{trainer.config.steps or 0} val_loss:{score.loss:.4f} val_bpb:{score.bpb:.4f} "
        f"{_times(trainer.step, trainer.clock.seconds())} weights:{label.replace(' ', '_')}"
    )


def stop_text(trainer: Trainer) -> str:
    """Why training ended before its last step; "" when it did not."""
    if trainer.stopped_by_signal:
        return f"stopped by SIGTERM after step {trainer.step}; the same RUN_ID continues it"
    if trainer.step >= (trainer.config.steps or math.inf):
        return ""
    seconds, steps = trainer.clock.seconds(), trainer.config.steps or 0
    return f"stopping_early: wallclock_cap train_time:{1000 * seconds:.0f}ms step:{trainer.step}/{steps}"


def calibration_text(trainer: Trainer) -> str:
    """That the quantiser has seen training data, and how long training has taken with that."""
    return f"calibrated on training batches: {trainer.clock.seconds():.1f} s of training in all"


def _times(step: int, seconds: float) -> str:
    return f"train_time:{1000 * seconds:.0f}ms step_avg:{1000 * seconds / max(1, step):.2f}ms"


def log_ledger(log: RunLog, recipe: Recipe, ledger: Ledger) -> None:
    """Who costs how many bytes."""
    log.line(ledger_text(recipe, ledger), event="ledger", **ledger.totals)


def ledger_text(recipe: Recipe, ledger: Ledger) -> str:
    """The ledger and the competition's three size lines."""
    coder = recipe.pack.coder
    return (
        f"{ledger.table()}\n"
        f"Serialized model {coder}: {ledger.model_total} bytes\n"
        f"Code size: {ledger.code_total} bytes\n"
        f"Total submission size {coder}: {ledger.total} bytes"
    )


def log_final(log: RunLog, recipe: Recipe, report: EvalReport) -> None:
    """The score from the bytes."""
    log.line(final_text(recipe, report), event="final", **report.to_dict())


def final_text(recipe: Recipe, report: EvalReport) -> str:
    """The score in our words and in the competition's."""
    score, label = report.score, f"final_{recipe.pack.coder}_roundtrip"
    return (
        f"{report.line()}\n"
        f"{label} val_loss:{score.loss:.4f} val_bpb:{score.bpb:.4f} eval_time:{1000 * report.seconds:.0f}ms\n"
        f"{label}_exact val_loss:{score.loss:.8f} val_bpb:{score.bpb:.8f}"
    )
