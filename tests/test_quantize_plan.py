"""Plans: which rule takes which tensor, the exact counts on the competition's model, and the predicted bytes."""

from math import prod

import pytest
import torch

from compress.container import pack
from quantize.estimate import estimate_bytes, expected_maximum
from quantize.grid import INT4, INT5, INT6, INT8, Coded, dequantize_coded
from quantize.plan import Rule, quantize, rule_for
from quantize.plan_table import plan_rows, plan_table
from quantize.plans import baseline_int8_plan, int5_int6_plan
from quantize.prune import prune_smallest
from quantize.scale import RowMax, RowPercentile
from runtime.errors import UserError

BLOCK = {
    "attention.query.weight": (512, 512),
    "attention.key.weight": (256, 512),
    "attention.value.weight": (256, 512),
    "attention.project.weight": (512, 512),
    "attention.q_gain": (8,),
    "mlp.up.weight": (1536, 512),
    "mlp.down.weight": (512, 1536),
    "attn_scale": (512,),
    "mlp_scale": (512,),
    "resid_mix": (2, 512),
}
COMPETITION = {
    "embed.tokens.weight": (1024, 512),
    "embed.bigram.table.weight": (4096, 128),
    "embed.bigram.project.weight": (512, 128),
    "embed.bigram.scale": (),
    "embed.smear.gate": (512,),
    "skip_weights": (5, 512),
    **{f"layers.{layer}.{name}": shape for layer in range(10) for name, shape in BLOCK.items()},
}


def elements_by_store(plan: tuple[Rule, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in plan_rows(COMPETITION, plan):
        counts[row.store] = counts.get(row.store, 0) + row.elements
    return counts


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_competition_model_is_whole():
    assert sum(map(prod, COMPETITION.values())) == 24_730_705


def test_int5_int6_takes_what_465_takes():
    assert elements_by_store(int5_int6_plan(10)) == {
        "int5": 10 * 2 * 1536 * 512,
        "int6": 10 * (2 * 512 * 512 + 2 * 256 * 512) - 256 * 512,
        "int8": 4096 * 128,
        "fp16": 1024 * 512 + 256 * 512 + 512 * 128 + 1 + 512 + 5 * 512 + 10 * 2_056,
    }


def test_int5_int6_rules_by_name():
    plan = int5_int6_plan(10)
    chosen = {name: rule_for(name, shape, plan).name for name, shape in COMPETITION.items()}
    assert chosen["embed.bigram.project.weight"] == "small"
    assert chosen["embed.bigram.table.weight"] == "rest"
    assert chosen["embed.tokens.weight"] == "embedding"
    assert chosen["layers.9.attention.key.weight"] == "last key"
    assert {chosen[f"layers.{layer}.attention.key.weight"] for layer in range(9)} == {"attention"}
    assert {chosen[f"layers.{layer}.mlp.up.weight"] for layer in range(10)} == {"mlp"}
    assert {chosen[f"layers.{layer}.{name}"] for layer in range(10) for name in ("attn_scale", "resid_mix")} == {
        "small"
    }
    assert rule_for("embed.bigram.table.weight", (4096, 128), plan).scale == RowPercentile()


@pytest.mark.parametrize("grid", [INT6, INT8])
def test_int5_int6_embedding_option(grid):
    assert rule_for("embed.tokens.weight", (1024, 512), int5_int6_plan(10, embedding=grid)).store == grid


def test_baseline_takes_what_the_organisers_take():
    controls = 5 * 512 + 10 * 2_056
    small = 512 * 128 + 1 + 512
    counts = elements_by_store(baseline_int8_plan())
    assert counts == {"fp32": controls, "fp16": small, "int8": 24_730_705 - controls - small}


def test_the_first_match_wins():
    plan = (Rule("a", INT4, pattern="up"), Rule("b", INT5, pattern="mlp"), Rule("c", "fp32"))
    assert [rule_for(name, (2, 2), plan).name for name in ("mlp.up", "mlp.down", "gate")] == ["a", "b", "c"]


def test_every_condition_of_a_rule_counts():
    rule = Rule("all", INT4, pattern="up", min_elements=4, max_elements=8, ndim=2)
    assert rule.matches("up", (2, 2))
    assert rule.matches("up", (2, 4))
    for name, shape in (("down", (2, 2)), ("up", (1, 3)), ("up", (3, 3)), ("up", (4,))):
        assert not rule.matches(name, shape)


def test_a_tensor_without_a_rule_is_named():
    plan = (Rule("matrices", INT6, ndim=2),)
    with pytest.raises(UserError, match=r"gate \(3,\) matches none \(rules: matrices\)"):
        quantize({"gate": torch.ones(3)}, plan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule("bad", "fp8"), "rule 'bad' must store on a Grid, as fp16 or as fp32, got 'fp8'"),
        (lambda: Rule("bad", INT4, pattern="("), "pattern of rule 'bad' must be a regular expression"),
    ],
)
def test_rules_that_mean_nothing_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "gate holds 1 NaN or infinite values of 2"),
        (torch.tensor([1, 2]), "must be floating point, gate is torch.int64"),
        (torch.tensor([70_000.0]), r"largest \|w\| is 70000; store it as fp32"),
    ],
)
def test_weights_that_cannot_be_stored_are_named(weight, message):
    with pytest.raises(UserError, match=message):
        quantize({"gate": weight}, (Rule("all", "fp16"),))


def test_a_scale_beyond_fp16_is_refused():
    with pytest.raises(UserError, match="fp16 numbers reach 65504, wide needs more"):
        quantize({"wide": torch.full((2, 2), 1e6)}, (Rule("all", INT4),))


def test_quantize_does_not_depend_on_order_and_leaves_weights_alone():
    weights = {"b": gaussian(8, 4), "a": gaussian(4, 8).T, "c": gaussian(3)}
    plan = (Rule("matrices", INT6, ndim=2), Rule("rest", "fp32"))
    codes = quantize(weights, plan)
    again = quantize(dict(reversed(weights.items())), plan)
    assert list(codes) == list(again) == ["a", "b", "c"]
    assert pack(codes, config={}) == pack(again, config={})
    codes["c"].zero_()
    assert torch.equal(weights["c"], gaussian(3))


def test_quantize_applies_rule_scale_and_pruning():
    weight = gaussian(300, 300)
    codes = quantize({"up": weight}, (Rule("all", INT5),), prune=0.03)
    expected = prune_smallest(weight, 0.03)
    assert isinstance(codes["up"], Coded)
    assert torch.equal(codes["up"].scale, RowMax()(expected, INT5))
    assert (dequantize_coded(codes["up"])[expected == 0] == 0).all()


def test_the_table_shows_groups_and_sums():
    table = plan_table(COMPETITION, int5_int6_plan(10)).splitlines()
    assert [line.split() for line in table if line.startswith("layers.*.mlp.up")] == [
        ["layers.*.mlp.up.weight", "10", "7,864,320", "mlp", "int5", "5"]
    ]
    assert table[-1].split() == ["total", "106", "24,730,705"]
    weights = {"a": torch.ones(2, 3)}
    assert plan_table(weights, baseline_int8_plan()) == plan_table({"a": (2, 3)}, baseline_int8_plan())


def test_expected_maximum_agrees_with_integration():
    for count, integrated in ((64, 2.5639), (128, 2.8015), (512, 3.2302), (1536, 3.5363), (65_536, 4.4352)):
        assert expected_maximum(count) == pytest.approx(integrated, rel=0.005)


@pytest.mark.parametrize("shape", [(1024, 128), (256, 512), (128, 1536)])
def test_the_estimate_is_within_two_percent_of_packing(shape):
    for store, tolerance in ((INT4, 0.03), (INT5, 0.02), (INT6, 0.02), (INT8, 0.02), ("fp16", 0.02), ("fp32", 0.02)):
        plan = (Rule("all", store),)
        packed = len(pack(quantize({"w": gaussian(*shape)}, plan), config={}))
        header = len(pack({}, config={})) + 60
        assert estimate_bytes({"w": shape}, plan)["w"] == pytest.approx(packed - header, rel=tolerance)


def test_the_estimate_covers_the_competition_model():
    estimate = estimate_bytes(COMPETITION, int5_int6_plan(10))
    assert estimate.keys() == COMPETITION.keys()
    # Packed once with Gaussian weights: 15,358,202 bytes.
    assert sum(estimate.values()) == pytest.approx(15_358_202, rel=0.002)
