"""Quantisation by rate, from the last training batches to the last byte of the budget."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from test_bundle import run_here
from tiny_runs import ROOT, tiny

from compress.__main__ import main as compress_main
from compress.bundle import bundle_recipe
from data.dataset import open_dataset
from quantize.__main__ import main as quantize_main
from quantize.codes_file import load_codes
from quantize.fit import SLACK
from quantize.grid import dequantize
from quantize.plan import plan_grids
from recipes.by_rate import RateQuantizer
from recipes.override import overridden
from recipes.packed import open_packed
from recipes.recipe import load_recipe
from recipes.run_folder import RunFolder
from recipes.stages import compress_run, quantize_run
from runtime.checkpoint import load_checkpoint
from runtime.errors import UserError
from runtime.machine import Machine
from train_gpt import build_trainer
from train_gpt import main as train_main

BUDGET = 48_000
CODE = len(bundle_recipe("demo_rate", ROOT).counted)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_data):
    """A run that fills its budget; made once."""
    place = tmp_path_factory.mktemp("rate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("DATA_PATH", str(tiny_data))
        patch.setenv("RUN_ID", "fitted")
        patch.delenv("SEED", raising=False)
        assert train_main(["demo_rate", *tiny("demo_rate", pack__budget=BUDGET)]) == 0
    return place / "runs/fitted"


@pytest.fixture
def fitted(finished, workplace):
    """A copy of it to work on."""
    return RunFolder(shutil.copytree(finished, workplace / "runs/fitted"))


def trainer_of(run, data):
    """The trainer of a finished run as its last checkpoint has it."""
    recipe = run.recipe()
    trainer = build_trainer(recipe, open_dataset(data, recipe.model.vocab_size), Machine(peak_flops=1.0))
    assert trainer.resume(run.checkpoint)
    return trainer


class Silent:
    def calibrated(self, trainer) -> None:
        pass


def test_code_and_model_end_within_a_thousandth_under_the_budget(fitted):
    ledger = json.loads(fitted.ledger.read_text())
    assert (1 - SLACK) * BUDGET <= ledger["total"] <= BUDGET
    said = fitted.path.joinpath("train.log").read_text()
    (line,) = re.findall(
        r"^steps x(\S+) of the plan's \((\d+) tried\): code and model (\d+) of (\d+) bytes", said, re.M
    )
    assert [int(number) for number in line[2:]] == [ledger["total"], BUDGET]
    assert 0.125 < float(line[0]) < 8 and int(line[1]) <= 12


def test_the_bytes_hold_the_fitted_model(fitted):
    codes = dequantize(load_codes(fitted.codes, plan_grids(fitted.recipe().pack.plan)))
    weights, _ = load_checkpoint(fitted.weights)
    packed = open_packed(fitted.artifact, Machine()).model
    assert all(torch.equal(packed.get_parameter(name), tensor) for name, tensor in codes.items())
    assert not torch.equal(codes["layers.0.mlp.up.weight"], weights["layers.0.mlp.up.weight"])
    assert json.loads(fitted.score.read_text())["artifact_bytes"] == fitted.artifact.stat().st_size


def test_each_stage_alone_makes_the_same_bytes_from_the_run_folder(fitted, capsys):
    held = fitted.codes.read_bytes(), fitted.artifact.read_bytes()
    fitted.codes.unlink()
    fitted.artifact.unlink()
    capsys.readouterr()
    quantize_main(fitted.path)
    compress_run(fitted)
    assert (fitted.codes.read_bytes(), fitted.artifact.read_bytes()) == held
    assert capsys.readouterr().out.startswith("steps x")


def test_the_counted_file_fills_the_budget_with_the_same_bytes(fitted, workplace, monkeypatch, capsys):
    folder = workplace / "alone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUN_ID", "alone")
    (folder / "train_gpt.py").write_bytes(bundle_recipe("demo_rate", ROOT).counted)
    assert run_here(folder / "train_gpt.py", *tiny("demo_rate", pack__budget=BUDGET)) == 0
    assert (folder / "runs/alone/model.bin").read_bytes() == fitted.artifact.read_bytes()
    log = fitted.path.joinpath("train.log").read_text()
    assert re.search(r"^steps x.*$", log, re.M)[0] in (said := capsys.readouterr().out)
    assert "calibrated on training batches: " in said


def test_moments_are_of_the_next_training_batches_under_the_weights_that_ship(fitted, tiny_data):
    trainer = trainer_of(fitted, tiny_data)
    trainer.use_average()
    shipped, _ = load_checkpoint(fitted.weights)
    assert all(torch.equal(weight, shipped[name]) for name, weight in trainer.weights.items())
    batches = fitted.recipe().pack.quantizer.batches * trainer.config.num_slices
    rows = torch.cat([trainer.loader.next()[0] for _ in range(batches)])
    with torch.no_grad():
        hidden = trainer.model.hidden(rows)[0].flatten(0, 1)
    moments, _ = load_checkpoint(fitted.moments)
    torch.testing.assert_close(moments["embed.tokens.weight"], hidden.T @ hidden / rows.numel(), rtol=1e-4, atol=1e-5)
    matrices = {name for name, weight in shipped.items() if name.endswith(".weight") and ".table." not in name}
    assert moments.keys() == matrices


def test_calibration_is_training_time(fitted, tiny_data):
    events = [json.loads(line) for line in fitted.path.joinpath("log.jsonl").read_text().splitlines()]
    before, after = (event["train_seconds"] for event in events if event["event"] == "trained")
    assert before < after
    trainer = trainer_of(fitted, tiny_data)
    spent = trainer.clock.seconds()
    RateQuantizer(batches=1).moments(trainer, Silent())
    assert spent < trainer.clock.seconds() == trainer.clock.seconds()


def test_the_seconds_for_calibration_are_kept_back(tiny_data):
    recipe = overridden(load_recipe("demo_rate"), [*tiny("demo_rate"), "--train.seconds", "600"])
    trainer = build_trainer(recipe, open_dataset(tiny_data, 320), Machine(peak_flops=1.0))
    assert trainer.config.seconds == 600 - recipe.pack.quantizer.seconds < 600


def test_a_model_that_cannot_fill_the_budget_takes_the_finest_steps_and_says_so(run_tiny):
    run = RunFolder(run_tiny("demo_rate", "small"))
    log, total = run.path.joinpath("train.log").read_text(), json.loads(run.ledger.read_text())["total"]
    (line,) = re.findall(r"^steps x0.1250 of the plan's, the finest \(2 tried\).*$", log, re.M)
    own, room = map(int, re.search(r"at the plan's own (\d+), room for (\d+) more parameters", line).groups())
    assert CODE < own < total < 0.9 * 400_000
    on_grids = sum(
        weight.numel() for name, weight in load_checkpoint(run.weights)[0].items() if name.endswith("weight")
    )
    assert room == int((400_000 - own) * on_grids / (own - CODE))


class LonelyRank(Machine):
    """One of two ranks, which never hears of the other."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def test_two_ranks_calibrate_on_the_tokens_of_one(tiny_data):
    recipe, dataset = overridden(load_recipe("demo_rate"), tiny("demo_rate")), open_dataset(tiny_data, 320)
    machines = Machine(), LonelyRank(rank=0, world_size=2), LonelyRank(rank=1, world_size=2)
    trainers = [build_trainer(recipe, dataset, machine) for machine in machines]
    one, first, second = (RateQuantizer(batches=3).moments(trainer, Silent()) for trainer in trainers)
    for name, moment in one.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, moment)
    assert not torch.equal(first["embed.tokens.weight"], second["embed.tokens.weight"])


def test_moments_that_are_missing_are_named(fitted):
    fitted.moments.unlink()
    with pytest.raises(UserError, match=r"moments.safetensors is missing: recipe demo_rate calibrates; train_gpt.py"):
        quantize_run(fitted)


def test_a_budget_that_no_steps_reach_is_named_with_the_nearest(fitted):
    shutil.rmtree(fitted.code)
    fitted.code.mkdir()
    (fitted.code / "train_gpt.py").write_bytes(bytes(BUDGET))
    with pytest.raises(UserError, match=r"the weights must fit 48,000 bytes, the coarsest steps take \S+; nearest "):
        quantize_run(fitted)


@pytest.mark.parametrize("wrong", [{"batches": 0}, {"finest": 0.0}])
def test_calibration_on_nothing_is_refused(wrong):
    with pytest.raises(UserError, match="calibration takes at least 1 batch, and the finest steps are some, got "):
        RateQuantizer(**wrong)


def rows_of(table: str) -> dict[str, list[str]]:
    """The rows of Markdown tables by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    return {first: others for first, *others in cells}


def test_the_bench_tells_what_each_quantiser_and_coder_does_to_a_run(fitted, capsys):
    compress_main(["bench", str(fitted.path), "--score"])
    said = capsys.readouterr().out
    rows = rows_of(said)
    names = ["int5 rows", "int6 rows", "int6, 12.85 deviations / 31", "GPTQ rows", "GPTQ columns"]
    coders = ["zstd22", "brotli11", "lzma", "range"]
    assert list(rows) == ["quantiser", *names, "GPTQ columns trellis", "coder", *coders]
    assert rows["quantiser"][:6] == ["bytes", "bits a weight", "/ entropy", "weights dB", "outputs dB", "bits per byte"]
    assert rows["range"][0] == rows["int6, 12.85 deviations / 31"][0]
    by_rate, by_gptq, trellis = (rows[name] for name in (names[2], names[3], "GPTQ columns trellis"))
    # What costs the weights serves the outputs.
    assert float(by_gptq[3]) > float(by_rate[3]) and float(by_gptq[4]) < float(by_rate[4]) - 1
    assert float(trellis[4]) < float(rows["GPTQ columns"][4])
    trained = float(re.match(r"as trained: (\S+) bits per byte", said)[1])
    assert all(abs(float(rows[name][5]) - trained) < 0.02 for name in names)


def test_the_bench_takes_anybodys_weights(tmp_path, capsys):
    weights = {"a": torch.randn(64, 96, generator=torch.Generator().manual_seed(0)), "ids": torch.arange(3)}
    save_file(weights, tmp_path / "other.safetensors")
    compress_main(["bench", "--weights", str(tmp_path / "other.safetensors")])
    rows = rows_of(capsys.readouterr().out)
    assert not any(name.startswith("GPTQ") for name in rows)
    # 0.4145 deviations a step.
    assert float(rows["int6, 12.85 deviations / 31"][3]) == pytest.approx(-18.4, abs=0.2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bench"], "bench takes a run folder or --weights, one of them; for example bench runs/ID"),
        (["bench", "--weights", "none.safetensors"], "weights must be a safetensors file, none.safetensors is none or"),
    ],
)
def test_the_bench_without_weights_says_what_it_takes(arguments, message):
    with pytest.raises(UserError, match=message):
        compress_main(arguments)
