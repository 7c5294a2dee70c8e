"""The figures of one record, from its facts."""

import math
import re
from collections.abc import Callable
from typing import Any

from records.picture.charts import Chart, Line, bars_chart, curves_chart, position_chart, seeds_chart, stages_chart
from records.picture.facts import PictureFacts
from records.run_files import LedgerFacts

# Tensor groups with a bar of their own.
_SHOWN_GROUPS = 10
_BITS = re.compile(r"^(?:u?int|fp|bf)(\d{1,2})$")


def gallery_of(facts: PictureFacts) -> list[Chart]:
    """Every figure; those that the record has no facts for say so."""
    return [
        _curves_over("loss-steps", "Loss over steps", "step", facts, lambda entry: entry.step),
        _curves_over(
            "loss-seconds", "Loss over seconds", "seconds of training", facts, lambda entry: entry.train_seconds
        ),
        stages_chart("stages", facts.score_stages()),
        seeds_chart("seeds", [(facts.title, list(facts.seed_scores.values()))]),
        position_chart("position", facts.verification.get("score_by_position") or []),
        *(_ledger_charts(facts.ledger) if facts.ledger else _no_ledger()),
    ]


def _curves_over(
    name: str, title: str, x_label: str, facts: PictureFacts, x_of: Callable[[Any], float | None]
) -> Chart:
    lines = []
    for curve in facts.curves:
        steps = [(x, entry.train_loss) for entry in curve.log.steps if _is_finite(x := x_of(entry), entry.train_loss)]
        dots = [(x, entry.val_loss) for entry in curve.log.validations if _is_finite(x := x_of(entry), entry.val_loss)]
        lines.append(Line(curve.name, [x for x, _ in steps], [loss for _, loss in steps], dots))
    return curves_chart(name, title, x_label, lines, facts.bits_per_nat)


def _is_finite(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def _ledger_charts(ledger: LedgerFacts) -> list[Chart]:
    sizes = sorted(((f"{_short(entry.group)} {entry.kind}", entry.data + entry.scales) for entry in ledger.entries),
                   key=lambda entry: -entry[1])  # fmt: skip
    rest = [size for _, size in sizes[_SHOWN_GROUPS:]]
    groups = sizes[:_SHOWN_GROUPS] + ([(f"{len(rest)} smaller groups", sum(rest))] if rest else [])
    groups += [("header and checksum", ledger.header + ledger.checksum), ("code", ledger.code_total)]
    caption = f"{ledger.total:,} bytes in all, {ledger.total / ledger.budget:.1%} of the {ledger.budget:,} allowed."
    bars = [(name, size, f"{size:,} ({size / max(1, ledger.total):.1%})") for name, size in groups]
    return [
        bars_chart("bytes-groups", "Bytes by tensor group", caption, bars),
        bars_chart("bytes-stages", "Bytes by stage", _stages_caption(ledger), _stage_bars(ledger)),
    ]


def _no_ledger() -> list[Chart]:
    return [Chart("bytes-groups", "Bytes", "The record has no ledger.json that tells its bytes by group.")]


def _stage_bars(ledger: LedgerFacts) -> list[tuple[str, float, str]]:
    elements = sum(entry.elements for entry in ledger.entries)
    bits = [_bits_of(entry.kind) for entry in ledger.entries]
    stages = [("weights in fp32", 4 * elements)]
    if None not in bits:
        codes = sum(entry.elements * width for entry, width in zip(ledger.entries, bits, strict=True)) // 8
        stages.append(("codes, before coding", codes + sum(entry.scales for entry in ledger.entries)))
    stages += [("model, packed", ledger.model_total), ("model and code", ledger.total)]
    return [(name, size, f"{size:,}") for name, size in stages]


def _stages_caption(ledger: LedgerFacts) -> str:
    elements = max(1, sum(entry.elements for entry in ledger.entries))
    return f"{elements:,} parameters, {8 * ledger.model_total / elements:.2f} bits each in the packed model."


def _bits_of(kind: str) -> int | None:
    match = _BITS.match(kind)
    return int(match[1]) if match else None


def _short(group: str) -> str:
    """A tensor group without what every group has.

    >>> _short("layers.*.attention.query.weight")
    'attention.query'
    """
    return group.removeprefix("layers.*.").removesuffix(".weight")
