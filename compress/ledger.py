"""Who costs how many bytes: every byte of the artifact and of the code on one entry, and the sum against the cap.

The competition counts decimal bytes, code and compressed model together, and at most 16,000,000 of them.
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from compress.container import CHECKSUM_BYTES, Layout, read_layout
from compress.expected import kind_of_group
from compress.kinds import Kind
from runtime.errors import UserError

BUDGET = 16_000_000


@dataclass(frozen=True)
class LedgerEntry:
    """The tensors of one group and kind: what their numbers and what their scales cost, in bytes."""

    group: str
    kind: str
    tensors: int
    elements: int
    data: int
    scales: int

    @property
    def name(self) -> str:
        """Group and kind, as tables and errors call it."""
        return f"{self.group} {self.kind}"

    @property
    def total(self) -> int:
        """Data and scales."""
        return self.data + self.scales


@dataclass(frozen=True)
class Ledger:
    """Bytes of a submission; they add up to the file of the model and the files of the code, exactly."""

    entries: tuple[LedgerEntry, ...]
    header: int
    checksum: int
    code: dict[str, int]  # by file name
    budget: int = BUDGET

    @property
    def model_total(self) -> int:
        """Bytes of the artifact."""
        return sum(entry.total for entry in self.entries) + self.header + self.checksum

    @property
    def code_total(self) -> int:
        """Bytes of all code files."""
        return sum(self.code.values())

    @property
    def total(self) -> int:
        """What the competition counts."""
        return self.model_total + self.code_total

    @property
    def headroom(self) -> int:
        """Bytes left under the budget; negative when over it."""
        return self.budget - self.total

    @property
    def totals(self) -> dict[str, int]:
        """The four sums by name, as they stand in the JSON."""
        return {name: getattr(self, name) for name in ("model_total", "code_total", "total", "headroom")}

    def to_json(self) -> dict[str, Any]:
        """A dictionary for a JSON file, the sums included for those who read it elsewhere."""
        return {**asdict(self), "entries": [asdict(entry) for entry in self.entries], **self.totals}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Ledger":
        """The ledger that `to_json` wrote. Raises UserError when fields are missing or the sums do not agree."""
        try:
            entries = tuple(LedgerEntry(**entry) for entry in fields["entries"])
            ledger = cls(entries, fields["header"], fields["checksum"], dict(fields["code"]), fields["budget"])
            agrees = ledger.to_json() == fields
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"a ledger must have the fields that compress writes: {error}") from error
        if not agrees:
            raise UserError(f"the sums of a ledger must agree with its entries, {ledger.totals}; got others")
        return ledger

    def table(self) -> str:
        """The ledger as lines of text, with the share of the total beside every number of bytes."""
        rows = [("entry", "elements", "data", "scales", "bytes", "share")]
        for entry in self.entries:
            details = f"{entry.elements:,}", f"{entry.data:,}", f"{entry.scales:,}"
            rows.append((entry.name, *details, *self._cost(entry.total)))
        rest = {"header": self.header, "checksum": self.checksum, **self.code}
        sums = {"model": self.model_total, "code": self.code_total, "total": self.total}
        rows += [(name, "", "", "", *self._cost(size)) for name, size in [*rest.items(), *sums.items()]]
        return _aligned([*rows, (f"left of {self.budget:,}", "", "", "", f"{self.headroom:,}", "")])

    def _cost(self, size: int) -> tuple[str, str]:
        return f"{size:,}", f"{100 * size / max(self.total, 1):.1f}%"


def build_ledger(
    artifact: bytes,
    code_files: dict[str, int],  # bytes by file name
    budget: int = BUDGET,
    kinds: tuple[Kind, ...] = (),  # storage kinds of the recipe, beyond the basic ones
) -> Ledger:
    """The ledger of an artifact and its code. Raises UserError for bytes that are no whole artifact."""
    layout = read_layout(artifact)
    entries = _entries(layout, kinds)
    return Ledger(entries, layout.header_bytes, CHECKSUM_BYTES, dict(sorted(code_files.items())), budget)


def check_budget(ledger: Ledger) -> None:
    """Raises UserError when the total is over the budget, with the excess and the three largest entries."""
    if ledger.headroom >= 0:
        return
    costs = {entry.name: entry.total for entry in ledger.entries} | ledger.code
    largest = sorted(costs.items(), key=lambda cost: -cost[1])[:3]
    raise UserError(
        f"a submission must take at most {ledger.budget:,} bytes, got {ledger.total:,}: {-ledger.headroom:,} too many; "
        f"largest: {', '.join(f'{name} {size:,}' for name, size in largest)}"
    )


def _entries(layout: Layout, kinds: tuple[Kind, ...]) -> tuple[LedgerEntry, ...]:
    entries = []
    for group in layout.header.groups:
        costs = {"data": 0, "scales": 0}
        for label, size in zip(kind_of_group(group, kinds).labels, group.stored, strict=True):
            costs[label] += size
        elements = sum(prod(shape) for shape in group.shapes)
        entries.append(LedgerEntry(group.group, group.kind, len(group.names), elements, **costs))
    return tuple(entries)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell, two spaces apart, the first one flush left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
