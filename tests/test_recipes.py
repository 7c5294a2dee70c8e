"""Recipes as values: what they hold, how they are overridden, what is said of a mistake."""

import re
from dataclasses import replace

import pytest
import torch
from tiny_runs import ROOT, command, tiny

from compress.bundle import bundle_recipe
from compress.coder import LZMA, ZSTD22
from compress.container import read_layout
from model.flops import training_flops_per_token
from optim.schedule import WarmdownSteps
from quantize.estimate import estimate_bytes
from quantize.grid import INT6
from quantize.plan import quantize, rule_for
from recipes.budget import with_flops_as_steps
from recipes.override import leaves, overridden
from recipes.packed import open_packed, pack_model, parameter_shapes, travelling_overrides
from recipes.recipe import fingerprint, load_recipe, recipe_names
from runtime.errors import UserError
from runtime.machine import Machine


def test_the_recipes_are_the_files_with_a_function_of_their_name():
    assert {"baseline", "int5_int6", "demo", "demo_qat"} <= set(recipe_names())
    assert not {"recipe", "override", "packed", "stages"} & set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_a_value_that_names_itself(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe == load_recipe(name)
    assert fingerprint(recipe) == fingerprint(load_recipe(name))
    recipe.train.check(world_size=1)


def test_published_hyper_parameters_of_465():
    recipe = load_recipe("int5_int6")
    optim, train = recipe.optim, recipe.train
    assert (optim.matrix_lr, optim.scalar_lr, optim.embedding_lr) == (0.02, 0.02, 0.03)
    assert (optim.momentum_start, optim.momentum, optim.momentum_warmup_steps) == (0.92, 0.99, 1500)
    assert (optim.muon_weight_decay, optim.adam_weight_decay, optim.grad_clip) == (0.04, 0.01, 0.3)
    assert optim.warmdown == WarmdownSteps(3000)
    assert (train.tokens_per_step, train.window, train.seconds, train.num_slices) == (786_432, 2048, 600.0, 8)
    assert (recipe.average.every, recipe.average.start) == (50, 0.5)
    assert (recipe.eval.window, recipe.eval.stride, recipe.pack.coder) == (2048, 64, ZSTD22)


@pytest.mark.parametrize("name, published", [("int5_int6", 15_622_541), ("baseline", 15_815_847)])
def test_predicted_bytes_are_within_two_per_cent_of_the_published_artifact(name, published):
    recipe = load_recipe(name)
    predicted = sum(estimate_bytes(parameter_shapes(recipe.model), recipe.pack.plan).values())
    assert predicted == pytest.approx(published, rel=0.02)


POCKET = ["int5_int6_pocket", "baseline_pocket", "hybrid_pocket", "imli_pocket", "baka", "pristine"]


@pytest.mark.parametrize("name", POCKET)
def test_the_pockets_recipes_have_its_clock_its_bytes_and_its_text(name):
    recipe = load_recipe(name)
    assert (recipe.train.seconds, recipe.pack.budget, recipe.record.track) == (600.0, 1_000_000, "track_pocket")
    assert recipe.data.folder == "data/datasets/sotu_sp1024" and recipe.model.vocab_size == 1024
    assert recipe.train.validate_every
    predicted = sum(estimate_bytes(parameter_shapes(recipe.model), recipe.pack.plan).values())
    assert 800_000 < predicted + len(bundle_recipe(name, ROOT).counted) < 1_000_000


@pytest.mark.parametrize("name", ["baseline", "int5_int6", "hybrid"])
def test_a_pocket_recipe_stores_its_mlp_and_attention_as_the_recipe_that_it_scales(name):
    def grids(name):
        plan, shapes = load_recipe(name).pack.plan, parameter_shapes(load_recipe(name).model)
        wanted = re.compile(r"layers\.0\.(mlp|attention)\.(up|down|query|key|value|project|readout\.gate)\.weight")
        return {name: rule_for(name, shape, plan).store_name for name, shape in shapes.items() if wanted.match(name)}

    assert len(grids(name)) >= 6 and grids(f"{name}_pocket") == grids(name)


def test_a_budget_in_model_flops_is_the_steps_that_it_pays_for():
    narrow = load_recipe("demo", ["--model.dim", "64"]).model
    overrides = with_flops_as_steps("demo", ["--model.dim", "64", "--train.flops", "5e13", "--train.window=256"])
    train = load_recipe("demo", overrides).train
    step = train.tokens_per_step * training_flops_per_token(narrow, 256)
    assert (train.seconds, train.window) == (None, 256)
    assert train.steps * step <= 5e13 < (train.steps + 1) * step
    assert with_flops_as_steps("demo", ["--train.steps", "3"]) == ["--train.steps", "3"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--train.flops", "1e9"], "must pay for one step or more, got '1e9'; nearest 34854666240, one step$"),
        (["--train.flops=inf"], "must pay for one step or more, got 'inf'"),
        (["--train.flops", "nan"], "must pay for one step or more, got 'nan'"),
        (["--train.flops", "much"], "must be a number of operations, got 'much'; for example 5e13"),
        (["--train.flops", "5e13", "--train.steps=3"], "is the whole budget of a run, got --train.steps as well"),
        (["--train.seconds=9", "--train.flops=5e13"], "is the whole budget of a run, got --train.seconds as well"),
    ],
)
def test_a_wrong_budget_in_model_flops_is_one_line(arguments, message):
    with pytest.raises(UserError, match=f"^--train.flops {message}"):
        with_flops_as_steps("demo", arguments)


def test_overrides_reach_every_kind_of_field():
    recipe = overridden(
        load_recipe("int5_int6"),
        ["--train.steps", "20", "--train.seconds=none", "--optim.matrix_lr", "1e-3", "--model.orthogonal_init", "false",
         "--pack.plan.1.store", "int6", "--model.layers.length", "12", "--model.layers.*.mlp.hidden", "256",
         "--model.layers.3.mlp.hidden", "128", "--record.title", "Mine", "--train.tokens_per_step", "1_024"],
    )  # fmt: skip
    assert (recipe.train.steps, recipe.train.seconds, recipe.train.tokens_per_step) == (20, None, 1024)
    assert (recipe.optim.matrix_lr, recipe.model.orthogonal_init, recipe.record.title) == (1e-3, False, "Mine")
    assert recipe.pack.plan[1].store == INT6
    assert [layer.mlp.hidden for layer in recipe.model.layers] == [256] * 3 + [128] + [256] * 8


def test_a_part_that_may_be_missing_is_switched_off_by_none():
    recipe = overridden(load_recipe("demo_qat"), ["--model.layers.*.mlp.weight_map", "none", "--model.dim", "64"])
    assert all(layer.mlp.weight_map is None and layer.mixer.weight_map is not None for layer in recipe.model.layers)
    assert overridden(load_recipe("demo"), ["--average=none"]).average is None


def test_every_leaf_can_be_named_and_set_to_itself():
    recipe = load_recipe("int5_int6")
    plain = [(path, value) for path, value in leaves(recipe) if isinstance(value, (int, float, str))]
    assert len(plain) > 60
    assert overridden(recipe, [word for path, value in plain for word in (f"--{path}", str(value))]) == recipe


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--trian.steps", "3"], "unknown override --trian.steps; nearest: train.steps"),
        (["--model.dimm", "3"], "unknown override --model.dimm; nearest: model.dim"),
        (
            ["--model.layers.99.mlp.hidden", "3"],
            "unknown override --model.layers.99.mlp.hidden; nearest: model.",
        ),
        (["--train.steps", "many"], "--train.steps must be int or none, got 'many'"),
        (["--train.steps", "2.5"], "--train.steps must be int or none, got '2.5'"),
        (["--model.dim", "none"], "--model.dim must be int, got 'none'"),
        (["--train", "none"], "--train must be TrainConfig, got 'none'"),
        (["--average", "3"], "unknown override --average; nearest: average."),
        (["--model.orthogonal_init", "1"], "--model.orthogonal_init must be bool, got '1'"),
        (["--model.layers.length", "0"], "--model.layers.length must be at least 1, got 0; nearest 1"),
        (["--pack.plan.1.store", "int66"], "unknown grid 'int66'; nearest: int6"),
        (["--train.steps"], "override --train.steps needs a value"),
        (["steps", "3"], "overrides are --path value, got 'steps'"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_nearest(arguments, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as error:
        overridden(load_recipe("int5_int6"), arguments)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="unknown recipe 'int5_int7'; nearest: int5_int6"):
        load_recipe("int5_int7")


def test_only_what_the_model_needs_travels_in_the_file():
    overrides = ["--train.seed", "3", "--model.dim", "64", "--eval.stride=8", "--pack.prune", "0.03"]
    overrides += ["--pack.coder", "lzma"]
    assert travelling_overrides(overrides) == ["--model.dim=64", "--eval.stride=8", "--pack.coder=lzma"]


def test_the_coder_of_the_command_line_is_the_readers_too(tmp_path):
    overrides = [*tiny(), "--pack.coder", "lzma"]
    recipe = load_recipe("demo", overrides)
    assert recipe.pack.coder == LZMA
    weights = {name: torch.full(shape, 0.5) for name, shape in parameter_shapes(recipe.model).items()}
    codes = quantize(weights, recipe.pack.plan)
    artifact = pack_model(recipe, overrides, codes, "0" * 64)
    assert read_layout(artifact).header.coder == "lzma"
    (tmp_path / "model.bin").write_bytes(artifact)
    assert open_packed(tmp_path / "model.bin", Machine()).recipe.pack.coder == LZMA
    assert f"--pack.coder {recipe.pack.coder}" == "--pack.coder lzma"
    with pytest.raises(UserError, match="unknown coder 'zstd'; nearest: zstd22"):
        load_recipe("demo", ["--pack.coder", "zstd"])


def test_a_fingerprint_changes_with_any_field():
    recipe = load_recipe("demo")
    assert fingerprint(recipe) != fingerprint(replace(recipe, train=replace(recipe.train, seed=1)))
    assert fingerprint(recipe.model) == fingerprint(replace(recipe, average=None).model)


def test_the_table_of_recipes(tmp_path):
    shown = command(["-m", "recipes"], tmp_path)
    assert shown.returncode == 0
    line = next(line for line in shown.stdout.splitlines() if line.startswith("int5_int6 "))
    assert line.split()[1:4] == ["24,730,705", "10", "512"]
    assert 15_300_000 < int(line.split()[4].replace(",", "")) < 16_000_000
    wrong = command(["-m", "recipes", "dem0"], tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown recipe 'dem0'; nearest: demo, demo_qat, demo_rate\n"


def test_imports_keep_the_rules_that_bundling_needs():
    names, offenders = {}, []
    own = "benchmarks|compress|data|eval|model|ops|optim|quantize|recipes|records|runtime"
    for path in sorted(ROOT.glob("*/**/*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[0] not in own.split("|") or relative.parts[:2] == ("data", "datasets"):
            continue
        # The counted file of a record is no text of ours, and none in UTF-8.
        if relative.parts[0] == "records" and relative.parts[1].startswith("track_"):
            continue
        text = path.read_text(encoding="utf-8")
        offenders += [
            f"{relative}: {line.strip()}"
            for line in text.splitlines()
            if re.match(rf"\s+from ({own})\.\S+ import", line)
            or re.match(rf"\s*import ({own})\b", line)
            or re.match(rf"\s*from ({own})\.\S+ import .*( as |\*)", line)
            or re.match(r"\s*from \.", line)
        ]
        # What recipes/counted.py defines takes the place of the same name elsewhere.
        if path.name not in ("__main__.py", "counted.py"):
            for name in re.findall(
                r"^(?:def|class|async def) ([a-zA-Z]\w*)|^([a-zA-Z]\w*)(?:: [^=\n]+)? = ", text, re.MULTILINE
            ):
                names.setdefault("".join(name), []).append(str(relative))
    assert not offenders
    assert {name: files for name, files in names.items() if len(set(files)) > 1} == {}


@pytest.mark.parametrize("stage", ["quantize", "compress", "eval"])
def test_stages_see_tensors_and_contracts_but_no_model(stage):
    for path in (ROOT / stage).glob("*.py"):
        if path.name != "__main__.py":
            assert not re.search(
                r"^from (model|recipes|optim|records)\.", path.read_text(encoding="utf-8"), re.MULTILINE
            )
