"""Which tensor is stored how: an ordered tuple of rules, of which the first that matches a tensor decides.

plan = (Rule("small", "fp16", max_elements=65_536), Rule("mlp", INT5, pattern=r"\\.mlp\\."), Rule("rest", INT8))
codes = quantize(weights, plan)
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from quantize.grid import Coded, Codes, Grid, round_to_grid
from quantize.prune import prune_smallest
from quantize.scale import RowMax, ScaleRule
from runtime.errors import UserError

PASS_THROUGH = {"fp16": torch.float16, "fp32": torch.float32}

# (weights of one shape by name, grid, scale rule, moments of their inputs by name) -> codes by name
Method = Callable[[Mapping[str, Tensor], Grid, ScaleRule, Mapping[str, Tensor]], Mapping[str, Coded]]


@dataclass(frozen=True)
class Rule:
    """One line of a plan: tensors that meet every condition given are kept as `store` says; None means no condition."""

    name: str
    store: Grid | Literal["fp16", "fp32"]
    pattern: str | None = None  # a regular expression, searched for in the tensor's name
    scale: ScaleRule = RowMax()
    method: Method | None = None  # None: each weight by itself
    min_elements: int | None = None  # inclusive
    max_elements: int | None = None  # inclusive
    ndim: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.store, Grid) and self.store not in PASS_THROUGH:
            raise UserError(f"rule {self.name!r} must store on a Grid, as fp16 or as fp32, got {self.store!r}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise UserError(f"the pattern of rule {self.name!r} must be a regular expression: {error}") from error

    @property
    def store_name(self) -> str:
        """The grid's name, "fp16" or "fp32"."""
        return self.store.name if isinstance(self.store, Grid) else self.store

    @property
    def bits(self) -> int:
        """Bits a number before entropy coding."""
        return self.store.bits if isinstance(self.store, Grid) else PASS_THROUGH[self.store].itemsize * 8

    def matches(self, name: str, shape: Sequence[int]) -> bool:
        """Whether a tensor of this name and shape meets every condition."""
        elements = prod(shape)
        return (
            (self.pattern is None or re.search(self.pattern, name) is not None)
            and (self.min_elements is None or elements >= self.min_elements)
            and (self.max_elements is None or elements <= self.max_elements)
            and (self.ndim is None or len(shape) == self.ndim)
        )


def rule_for(name: str, shape: Sequence[int], plan: tuple[Rule, ...]) -> Rule:
    """The first rule of the plan that matches. Raises UserError for a tensor that no rule matches.

    >>> rule_for("norm.gain", (512,), (Rule("matrices", "fp16", ndim=2), Rule("rest", "fp32"))).name
    'rest'
    """
    for rule in plan:
        if rule.matches(name, shape):
            return rule
    names = ", ".join(rule.name for rule in plan) or "none"
    raise UserError(
        f"every tensor must match a rule of the plan, {name} {tuple(shape)} matches none (rules: {names}); "
        'a last Rule("rest", "fp16") takes what is left'
    )


def plan_grids(plan: tuple[Rule, ...]) -> list[Grid]:
    """The grids that the rules store on, in their order."""
    return [rule.store for rule in plan if isinstance(rule.store, Grid)]


def quantize(
    weights: Mapping[str, Tensor],  # floating point, any device; left as they are
    plan: tuple[Rule, ...],
    prune: float | None = None,  # the share of the smallest |w| of large matrices set to 0 first
    hessians: Mapping[str, Tensor] | None = None,  # by name, [cols, cols]: moments of the inputs, where a method asks
) -> Codes:
    """The codes of a model, on the CPU, in the order of their names.

    Raises UserError for a tensor that no rule matches, that is not floating point or not finite, whose values or scales
    are beyond fp16, or whose method lacks the moment of its inputs.
    """
    batches: dict[tuple[Rule, Sequence[int]], list[str]] = defaultdict(list)
    for name in sorted(weights):
        batches[rule_for(name, weights[name].shape, plan), weights[name].shape].append(name)
    codes: Codes = {}
    for (rule, _), names in batches.items():
        batch = {name: _prepared(name, weights[name], prune) for name in names}
        codes |= rule.method(batch, rule.store, rule.scale, hessians or {}) if rule.method else _each(batch, rule)
        for name, weight in batch.items():
            _refuse_overflow(name, codes[name], weight)
    return {name: codes[name] for name in sorted(codes)}


def _each(batch: Mapping[str, Tensor], rule: Rule) -> Codes:
    """Every number of the batch by itself."""
    if not isinstance(rule.store, Grid):
        return {name: weight.to(PASS_THROUGH[rule.store]) for name, weight in batch.items()}
    return {name: round_to_grid(weight, rule.scale(weight, rule.store), rule.store) for name, weight in batch.items()}


def _prepared(name: str, weight: Tensor, prune: float | None) -> Tensor:
    weight = _finite_on_cpu(name, weight)
    return weight if prune is None else prune_smallest(weight, prune)


def _finite_on_cpu(name: str, weight: Tensor) -> Tensor:
    """A contiguous fp32 copy, so that later changes of the model do not reach the codes."""
    if not weight.is_floating_point():
        raise UserError(f"weights must be floating point, {name} is {weight.dtype}")
    copy = weight.detach().to("cpu", torch.float32, copy=True).contiguous()
    bad = copy.numel() - int(copy.isfinite().sum())
    if bad:
        raise UserError(f"weights must be finite, {name} holds {bad} NaN or infinite values of {copy.numel()}")
    return copy


def _refuse_overflow(name: str, stored: Coded | Tensor, weight: Tensor) -> None:
    """Stored values, or scales, must have stayed finite in fp16."""
    if not (stored.scale if isinstance(stored, Coded) else stored).isfinite().all():
        largest = weight.abs().max().item()
        raise UserError(
            f"fp16 numbers reach 65504, {name} needs more: its largest |w| is {largest:g}; store it as fp32"
        )
