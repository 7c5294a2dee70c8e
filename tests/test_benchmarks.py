"""The benchmarks that have something to get wrong beside the clock: primed compressors and the groups of a profile."""

import pytest
from tiny_runs import tiny

from benchmarks.__main__ import profiled
from benchmarks.classical import (
    COMPRESSORS,
    SCALE_END,
    SCALE_START,
    measured,
    scale_section,
    write_scale,
)
from benchmarks.profile import PROFILE_GROUPS, profile_step, profile_table
from recipes.recipe import load_recipe
from recipes.stages import recipe_dataset
from runtime.errors import UserError
from runtime.machine import start_machine
from train_gpt import build_trainer

# No text repeats itself nearby, so that only a window over all of it finds what came before.
TEXT = b" ".join(str(number * number).encode() for number in range(100_000, 103_000))


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda compressor: compressor.name)
def test_a_primed_compressor_finds_again_what_it_was_given(compressor):
    entry = measured(compressor, TEXT + bytes(70_000), TEXT)
    assert 1.5 < entry.alone < 8 and entry.primed < 0.5 * entry.alone


def test_the_table_goes_between_its_markers_and_nothing_else_changes(tmp_path):
    path = tmp_path / "README.md"
    made = scale_section([measured(COMPRESSORS[0], TEXT, TEXT)], 4_000_000, 500)
    assert "| xz -9e | 64 MiB window |" in made
    assert "500 bytes of validation text" in made and "4,000,000 bytes, or 4.0 times the budget" in made
    path.write_text(f"# Rules\n\n{SCALE_START}\nold\n{SCALE_END}\n\nThe rest.\n", encoding="utf-8")
    for _ in range(2):
        write_scale(path, "new")
    assert path.read_text(encoding="utf-8") == f"# Rules\n\n{SCALE_START}\n\nnew\n\n{SCALE_END}\n\nThe rest.\n"


@pytest.mark.parametrize("name", ["demo", "int5_int6"])
def test_a_profile_finds_every_kind_of_work_of_a_step(name, workplace):
    recipe = load_recipe(name, tiny(name))
    trainer = build_trainer(recipe, recipe_dataset(recipe), start_machine("fp32"))
    spent = profile_step(trainer, steps=2)
    assert {group for group, _ in spent} == {group for group, *_ in PROFILE_GROUPS}
    assert all(ms >= 0 for ms in spent.values())
    products = {name for group, name in spent if group in ("matrix products", "optimiser, products")}
    assert {"aten::mm", "aten::bmm", "aten::baddbmm"} <= products
    assert not any("mm" in name for group, name in spent if group == "elementwise and sums")


def test_the_table_has_a_line_a_group(workplace):
    table = profile_table(load_recipe("demo", tiny()), start_machine("fp32"), steps=1)
    assert table.startswith("demo: ") and len(table.splitlines()) == 2 + len(PROFILE_GROUPS)
    assert all(group in table for group, *_ in PROFILE_GROUPS)


def test_the_command_says_what_it_takes():
    with pytest.raises(UserError, match="profile takes a recipe, got none; for example"):
        profiled([])
