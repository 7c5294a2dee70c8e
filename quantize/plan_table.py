"""A plan as a table, printed before anything is quantised: what is stored how, and how much there is of it."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor

from quantize.groups import group_of
from quantize.plan import Rule, rule_for


class PlanRow(NamedTuple):
    """Tensors of one group under one rule."""

    group: str
    tensors: int
    elements: int
    rule: str
    store: str
    bits: int


def plan_rows(
    shapes: Mapping[str, Sequence[int] | Tensor],  # shapes, or the weights themselves
    plan: tuple[Rule, ...],
) -> list[PlanRow]:
    """The rows of the table, sorted by group and rule. Raises UserError for a tensor that no rule matches.

    >>> plan_rows({"layers.0.up": (8, 4), "layers.1.up": (8, 4)}, (Rule("all", "fp16"),))
    [PlanRow(group='layers.*.up', tensors=2, elements=64, rule='all', store='fp16', bits=16)]
    """
    rows: dict[tuple[str, str], PlanRow] = {}
    for name, shape in shapes.items():
        shape = tuple(shape.shape if isinstance(shape, Tensor) else shape)
        rule = rule_for(name, shape, plan)
        group = group_of(name)
        row = rows.get((group, rule.name), PlanRow(group, 0, 0, rule.name, rule.store_name, rule.bits))
        rows[group, rule.name] = row._replace(tensors=row.tensors + 1, elements=row.elements + prod(shape))
    return [rows[key] for key in sorted(rows)]


def plan_table(shapes: Mapping[str, Sequence[int] | Tensor], plan: tuple[Rule, ...]) -> str:
    """The table as lines of text, with a sum in the last one.

    >>> print(plan_table({"layers.0.up": (8, 4), "layers.1.up": (8, 4)}, (Rule("all", "fp16"),)))
    group        tensors     elements  rule        store  bits
    layers.*.up        2           64  all         fp16     16
    total              2           64
    """
    rows = plan_rows(shapes, plan)
    width = max((len(row.group) for row in rows), default=5)
    lines = [f"{'group':<{width}}  tensors     elements  rule        store  bits"]
    lines += [
        f"{row.group:<{width}}  {row.tensors:>7}  {row.elements:>11,}  {row.rule:<10}  {row.store:<5}  {row.bits:>4}"
        for row in rows
    ]
    tensors, elements = sum(row.tensors for row in rows), sum(row.elements for row in rows)
    return "\n".join([*lines, f"{'total':<{width}}  {tensors:>7}  {elements:>11,}"])
