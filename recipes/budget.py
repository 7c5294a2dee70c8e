"""A budget in model FLOPs, the same on every machine: `--train.flops 5e13` is as many steps as that pays for.

It is an override of no field: it becomes `--train.steps` and `--train.seconds none` before anything reads the recipe.
So schedule and end are those of a run of that many steps, which is the same run bit for bit on the same machine, and
the counted file of a record, which is told the steps, need not know what a step costs. A recipe that follows documents
spends less than its budget: steps are paid for as if none of their rows ended early.
"""

import math

from model.flops import training_flops_per_token
from recipes.override import override_pairs
from recipes.recipe import load_recipe
from runtime.errors import UserError

_FLOPS, _OTHERS = "train.flops", ("train.steps", "train.seconds")


def with_flops_as_steps(name: str, overrides: list[str]) -> list[str]:
    """The overrides of recipe `name` with `train.flops`, if it is there, as steps; else as they are.

    Raises UserError for a second budget beside it, and for FLOPs that are no number or too few for a step.
    """
    pairs = list(override_pairs(overrides))
    given = [text for path, text in pairs if path == _FLOPS]
    if not given:
        return overrides
    if rivals := [path for path, _ in pairs if path in _OTHERS]:
        raise UserError(f"--{_FLOPS} is the whole budget of a run, got --{rivals[0]} as well; leave one of them away")
    rest = [f"--{path}={text}" for path, text in pairs if path != _FLOPS]
    recipe = load_recipe(name, rest)
    step = recipe.train.tokens_per_step * training_flops_per_token(recipe.model, recipe.train.window)
    flops = _number_of(given[-1])
    if not step <= flops < math.inf:
        raise UserError(f"--{_FLOPS} must pay for one step or more, got {given[-1]!r}; nearest {step:.0f}, one step")
    return [*rest, f"--train.steps={int(flops // step)}", "--train.seconds=none"]


def _number_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--{_FLOPS} must be a number of operations, got {text!r}; for example 5e13") from None
