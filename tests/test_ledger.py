"""The ledger: every byte on one entry, and over budget is an error that says who and by how much."""

import json

import pytest
import torch

from compress.container import CHECKSUM_BYTES, pack
from compress.ledger import BUDGET, Ledger, build_ledger, check_budget
from quantize.plan import quantize
from quantize.plans import int5_int6_plan
from runtime.errors import UserError

CODE = {"train_gpt.py": 50_000, "model/gpt.py": 1_234}


@pytest.fixture(scope="module")
def packed() -> bytes:
    weights = {f"layers.{layer}.mlp.up.weight": torch.ones(300, 300) * layer for layer in range(3)}
    weights |= {"layers.2.attention.key.weight": torch.ones(300, 300), "gain": torch.ones(())}
    return pack(quantize(weights, int5_int6_plan(3)), config={"recipe": "demo"})


def test_the_entries_add_up_to_the_files(packed):
    ledger = build_ledger(packed, CODE)
    assert sum(entry.total for entry in ledger.entries) + ledger.header + ledger.checksum == len(packed)
    assert (ledger.model_total, ledger.code_total) == (len(packed), 51_234)
    assert ledger.total == len(packed) + 51_234
    assert ledger.headroom == BUDGET - ledger.total
    assert ledger.checksum == CHECKSUM_BYTES


def test_entries_say_what_they_hold(packed):
    entries = {entry.name: entry for entry in build_ledger(packed, CODE).entries}
    assert sorted(entries) == ["gain fp16", "layers.*.attention.key.weight fp16", "layers.*.mlp.up.weight int5"]
    mlp = entries["layers.*.mlp.up.weight int5"]
    assert (mlp.tensors, mlp.elements) == (3, 270_000)
    assert min(mlp.data, mlp.scales) > 0
    assert entries["gain fp16"].scales == 0


def test_the_table_names_every_entry_and_sum(packed):
    ledger = build_ledger(packed, CODE, budget=100_000)
    lines = ledger.table().splitlines()
    assert lines[0].split() == ["entry", "elements", "data", "scales", "bytes", "share"]
    shown = {line.rsplit(maxsplit=2)[0].split("  ")[0]: line.rsplit(maxsplit=2)[-2:] for line in lines[1:-1]}
    assert shown["model"][0] == f"{len(packed):,}"
    assert shown["model/gpt.py"][0] == "1,234"
    assert shown["total"] == [f"{ledger.total:,}", "100.0%"]
    assert lines[-1].split() == ["left", "of", "100,000", f"{ledger.headroom:,}"]
    assert len({len(line) for line in lines[:-1]}) == 1


def test_the_ledger_survives_json(packed):
    ledger = build_ledger(packed, CODE)
    fields = json.loads(json.dumps(ledger.to_json()))
    assert Ledger.from_json(fields) == ledger
    assert fields["total"] == ledger.total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total": 1}, "sums of a ledger must agree"),
        ({"code": {"train_gpt.py": 1}}, "sums of a ledger must agree"),
        ({"entries": None}, "must have the fields"),
        ({"entries": [{"group": "x"}]}, "must have the fields"),
        ({"header": "many"}, "must have the fields"),
    ],
)
def test_other_json_is_refused(packed, change, message):
    with pytest.raises(UserError, match=message):
        Ledger.from_json(build_ledger(packed, CODE).to_json() | change)


def test_missing_fields_are_refused():
    with pytest.raises(UserError, match="must have the fields"):
        Ledger.from_json({})


def test_the_budget_is_inclusive(packed):
    total = build_ledger(packed, CODE).total
    check_budget(build_ledger(packed, CODE, budget=total))
    with pytest.raises(
        UserError, match=f"at most {total - 1:,} bytes, got {total:,}: 1 too many; largest: train_gpt.py"
    ):
        check_budget(build_ledger(packed, CODE, budget=total - 1))


def test_over_budget_names_the_three_largest(packed):
    with pytest.raises(UserError) as caught:
        check_budget(build_ledger(packed, CODE, budget=20_000))
    named = str(caught.value).split("largest: ")[1].split(", ")
    assert [name.rsplit(" ", 1)[0].split(" ")[0] for name in named[:1]] == ["train_gpt.py"]
    assert len(named) == 3
