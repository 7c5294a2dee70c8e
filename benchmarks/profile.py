"""python -m benchmarks profile RECIPE [--path value ...]: where a training step spends its time, by kinds of operators.

An operator's time is its own, without what it calls, so that the shares add up to the step. Calls with inputs of the
same shapes count with the fastest eighth of them: the profiler reads the clock on the wall, and on a shared machine a
slow call is waiting for the most part. The CPU time of a step, taken without the profiler, tells whether the sum can be
believed.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from optim.schedule import Progress
from optim.trainer import Trainer
from recipes.recipe import Recipe
from recipes.stages import recipe_dataset
from runtime.machine import Machine
from train_gpt import build_trainer

WARM_STEPS = 3
PROFILED_STEPS = 8
STEP, LOADER, OPTIMISER, ATTENTION = "the step", "the loader", "the optimiser", "attention"
_PRODUCT = r"^aten::(mm|addmm|bmm|baddbmm|mv|dot|_?linear)$"
_NO_WORK = r"(\w*view\w*|empty\w*|to|t|transpose|slice|select|expand|as_strided|detach)"
# (group, scope that the operator runs in, pattern searched in its name); the first that fits.
PROFILE_GROUPS = (
    ("loader", LOADER, ""),
    ("optimiser, products", OPTIMISER, _PRODUCT),
    ("optimiser, rest", OPTIMISER, ""),
    ("matrix products", STEP, _PRODUCT),
    ("attention", ATTENTION, ""),
    ("copies and casts", STEP, r"^aten::(copy_|_to_copy|clone|contiguous|cat|stack|repeat\w*|index\w*|fill_|zero_)$"),
    ("elementwise and sums", STEP, rf"^aten::(?!{_NO_WORK}$)"),
    ("Python, views, dispatch", STEP, ""),
)  # fmt: skip


def profile_group(name: str, scope: str) -> str:
    """The group of the operator `name` in `scope`.

    >>> profile_group("aten::bmm", OPTIMISER), profile_group("aten::mul", STEP), profile_group("aten::view", STEP)
    ('optimiser, products', 'elementwise and sums', 'Python, views, dispatch')
    """
    return next(group for group, place, pattern in PROFILE_GROUPS if place == scope and re.search(pattern, name))


def profile_step(trainer: Trainer, steps: int = PROFILED_STEPS) -> dict[tuple[str, str], float]:
    """Milliseconds a warm training step by (group, operator)."""
    _scoped(trainer.loader, "next", LOADER)
    _scoped(trainer.optimizers, "clip", OPTIMISER)
    _scoped(trainer.optimizers, "step", OPTIMISER)
    if trainer.average:
        _scoped(trainer.average, "update", OPTIMISER)
    _steps(trainer, WARM_STEPS)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as held:
        for _ in range(steps):
            with record_function(STEP):
                _steps(trainer, 1)
    calls = defaultdict(list)
    for event in held.events():
        if (scope := _scope_of(event)) is not None:
            calls[scope, event.name, str(event.input_shapes)].append(event.self_cpu_time_total / 1000)
    spent: Counter[tuple[str, str]] = Counter()
    for (scope, name, _), times in calls.items():
        spent[profile_group(name, scope), name] += sorted(times)[len(times) // 8] * len(times) / steps
    return dict(spent)


def cpu_step(trainer: Trainer, steps: int = PROFILED_STEPS) -> float:
    """The median CPU time of a warm step in milliseconds, over all threads, without a profiler."""
    _steps(trainer, WARM_STEPS)
    spent = []
    for _ in range(steps):
        start = time.process_time()
        _steps(trainer, 1)
        spent.append(1000 * (time.process_time() - start))
    return median(spent)


def profile_table(
    recipe: Recipe,
    machine: Machine,
    shown: int = 6,  # operators of each group
    steps: int = PROFILED_STEPS,  # that are measured
) -> str:
    """Groups with their share of a step, the costliest operators of each, and the CPU time of a step."""
    trainer = build_trainer(recipe, recipe_dataset(recipe), machine)
    plain, spent = cpu_step(trainer, steps), profile_step(trainer, steps)
    total = sum(spent.values())
    lines = [f"{recipe.name}: {plain:.0f} ms of CPU time a step; {total:.0f} ms by operators, {steps} steps"]
    lines.append(f"{'group':<26}{'ms':>8}{'share':>8}  most of it")
    for group, *_ in PROFILE_GROUPS:
        own = sorted(((ms, name) for (place, name), ms in spent.items() if place == group), reverse=True)
        ms = sum(part for part, _ in own)
        told = ", ".join(f"{name.removeprefix('aten::')} {part:.1f}" for part, name in own[:shown])
        lines.append(f"{group:<26}{ms:>8.1f}{ms / total:>8.1%}  {told}")
    return "\n".join(lines)


def _steps(trainer: Trainer, count: int) -> None:
    for _ in range(count):
        trainer._one_step(Progress(trainer.step, 0.0, None, None))


def _scoped(owner: Any, method: str, scope: str) -> None:
    """Lets the profiler see calls of `owner.method` under the name `scope`."""
    plain: Callable = getattr(owner, method)

    def named(*arguments: Any) -> Any:
        with record_function(scope):
            return plain(*arguments)

    setattr(owner, method, named)


def _scope_of(event: FunctionEvent | None) -> str | None:
    """The innermost scope that an event runs in, attention whatever its operator; None for what the profiler did."""
    while event is not None:
        if event.name in (STEP, LOADER, OPTIMISER):
            return event.name
        if ATTENTION in event.name.lower():
            return ATTENTION
        event = event.cpu_parent
    return None
