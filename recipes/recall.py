"""Which mixers recall: two layers of each without an MLP, trained on fresh examples of multi-query associative recall.

    python -m eval recall

A run stops as soon as it answers 99 % of a thousand unseen examples. What is finished is kept in a file of JSON lines,
a run a line, so that the command continues where it was stopped.

1. Arora et al. 2023, Zoology, arXiv 2312.04927 (task, models and weight decay).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch

from eval.recall import NO_ANSWER, RecallTask, recall_accuracy, recall_examples
from model.attention import AttentionConfig
from model.block import MixerBlockConfig, MixerConfig
from model.decay import NoDecayConfig, StepDecayConfig
from model.deltanet import DeltaNetConfig
from model.gated_conv import GatedConvConfig
from model.linear_attention import LinearAttentionConfig
from model.stack import Stack, StackConfig
from optim.groups import route
from optim.schedule import Progress, WarmupCosine
from runtime.errors import UserError
from runtime.files import write_text

_DELTANET = DeltaNetConfig(num_heads=2, expand_k=1.0, expand_v=1.0, decay=NoDecayConfig())
# Two heads of 32 each: a head's memory is full at 32 pairs. Attention, which keeps everything, is the yardstick; a
# convolution puts key and value together for it, as those of the other mixers do for them. With two heads, decays from
# the published 16 down may leave nothing of a seed's memory when the pairs are over, and training does not begin.
RECALL_MIXERS: dict[str, tuple[MixerConfig, ...]] = {
    "deltanet": (_DELTANET,) * 2,
    "gated_deltanet": (replace(_DELTANET, decay=StepDecayConfig(largest=1.0)),) * 2,
    "attention": (GatedConvConfig(size=4), AttentionConfig(num_heads=2, num_kv_heads=2)),
    "linear_attention": (LinearAttentionConfig(num_heads=2),) * 2,
}
RECALL_TASKS = {"mqar": (RecallTask(num_pairs=8), RecallTask(num_pairs=16), RecallTask(num_pairs=32, length=128))}


@dataclass(frozen=True)
class RecallTraining:
    """AdamW on batches of fresh examples; the rate falls to zero over `steps`."""

    steps: int = 4000
    batch: int = 64
    dim: int = 64
    lr: float = 4e-3
    weight_decay: float = 0.1
    check_every: int = 50
    unseen: int = 1000  # examples of a check
    enough: float = 0.99


@dataclass(frozen=True)
class RecallResult:
    """The last accuracy on unseen examples, and after how many steps."""

    mixer: str
    task: RecallTask
    training: RecallTraining
    seed: int
    accuracy: float
    steps: int


def recall_tasks(name: str, pairs: Sequence[int]) -> list[RecallTask]:
    """Those tasks of RECALL_TASKS[name] that have so many pairs. Raises UserError for pairs that none has."""
    tasks = {task.num_pairs: task for task in RECALL_TASKS[name]}
    for count in pairs:
        if count not in tasks:
            nearest = min(tasks, key=lambda known: abs(known - count))
            raise UserError(f"{name} has tasks of {', '.join(map(str, tasks))} pairs, got {count}; nearest {nearest}")
    return [task for count, task in tasks.items() if count in pairs]


def recall_model(mixers: tuple[MixerConfig, ...], task: RecallTask, dim: int) -> StackConfig:
    """The mixers between a tied embedding and head."""
    return StackConfig(task.vocab_size, dim, layers=tuple(MixerBlockConfig(mixer) for mixer in mixers))


def train_recall(
    mixer: str,  # a name of RECALL_MIXERS
    task: RecallTask,
    training: RecallTraining,
    seed: int,  # below 2^31: unseen examples are drawn from the seeds above
    tell: Callable[[str], None],
) -> RecallResult:
    """Trains one model until it answers, or to the end of its steps; `tell` gets a line a check."""
    task.check()
    model = recall_model(RECALL_MIXERS[mixer], task, training.dim).build().reset_parameters(seed)
    optimizer = torch.optim.AdamW(_groups(model), training.lr, weight_decay=training.weight_decay)
    schedule = WarmupCosine(warmup_steps=training.steps // 20, floor=0.0)
    draw, unseen = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(2**31 + seed)
    unseen_examples = recall_examples(task, training.unseen, unseen)
    accuracy = step = 0
    while step < training.steps and accuracy < training.enough:
        for group in optimizer.param_groups:
            group["lr"] = training.lr * schedule.multiplier(Progress(step, 0.0, training.steps, None))
        loss = _recall_step(model, optimizer, *recall_examples(task, training.batch, draw))
        step += 1
        if step % training.check_every == 0 or step == training.steps:
            accuracy = _unseen_accuracy(model, *unseen_examples)
            tell(f"{mixer} {task} seed {seed} step {step} loss {loss:.4f} unseen {100 * accuracy:.1f} %")
    return RecallResult(mixer, task, training, seed, accuracy, step)


def _groups(model: Stack) -> list[dict]:
    """Time constants apart, without weight decay: pulled to 0, the steps of a memory grow and it forgets at once."""
    routed: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for name, weight in model.named_parameters():
        routed[route(name) == "undecayed"].append(weight)
    return [{"params": routed[False]}, {"params": routed[True], "weight_decay": 0.0}]


def _recall_step(model: Stack, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, targets: torch.Tensor) -> float:
    nats, _ = model(tokens, targets)
    loss = nats.sum() / (targets != NO_ANSWER).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _unseen_accuracy(model: Stack, tokens: torch.Tensor, targets: torch.Tensor) -> float:
    return recall_accuracy(model.logits(tokens)[0], targets)


def recall_results(
    tasks: Sequence[RecallTask],
    seeds: int,  # 0 to seeds - 1
    training: RecallTraining,
    path: Path,  # of the file that keeps what is finished
    tell: Callable[[str], None],
) -> list[RecallResult]:
    """Every mixer on every task with every seed, seed after seed; what the file holds is not trained again.

    Raises UserError for a file of other lines.
    """
    kept = _read_results(path)
    wanted = [(name, task, training, seed) for seed in range(seeds) for task in tasks for name in RECALL_MIXERS]
    for run in wanted:
        if run not in kept:
            kept[run] = train_recall(*run, tell)
            write_text(path, "".join(json.dumps(asdict(result)) + "\n" for result in kept.values()))
    return [kept[run] for run in wanted]


def recall_table(results: list[RecallResult]) -> str:
    """Markdown: unseen accuracy of a task and mixer over the seeds, mean and deviation, and the steps of the runs."""
    groups: dict[tuple[str, str], list[RecallResult]] = {}
    for result in results:
        groups.setdefault((str(result.task), result.mixer), []).append(result)
    lines = ["| task | mixer | n | unseen accuracy, % | steps |", "|---|---|---|---|---|"]
    for (task, mixer), runs in groups.items():
        found, steps = [100 * run.accuracy for run in runs], sorted(run.steps for run in runs)
        deviation = f" ± {stdev(found):.1f}" if len(runs) > 1 else ""
        lines.append(f"| {task} | {mixer} | {len(runs)} | {mean(found):.1f}{deviation} | {steps[0]} to {steps[-1]} |")
    return "\n".join(lines)


def _read_results(path: Path) -> dict[tuple, RecallResult]:
    """What is finished by (mixer, task, training, seed)."""
    kept = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            facts = json.loads(line)
            run = (facts["mixer"], RecallTask(**facts["task"]), RecallTraining(**facts["training"]), facts["seed"])
            kept[run] = RecallResult(*run, facts["accuracy"], facts["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} must hold lines that `python -m eval recall` wrote, got {error!r}") from error
    return kept
