"""What holds across folders: bytes, scores and losses that must be equal wherever they appear.

The other invariants of the pipeline stand where their code does: coders in test_compress.py, coverage in test_eval.py,
operator twins in test_ops.py, causality in test_model.py, ranks, kills and restarts in test_train.py.
"""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import MACHINE, MODEL_RECIPES, ROOT, tiny

from data.dataset import open_dataset
from data.shards import read_tokens
from data.tokenizer import load_tokenizer
from eval.sliding import EvalConfig, plan_windows, score_windows
from model.linear import Linear, stored_weight
from quantize.codes_file import load_codes
from quantize.grid import Coded, dequantize
from quantize.plan import quantize
from recipes.override import overridden
from recipes.packed import open_packed, pack_model
from recipes.recipe import load_recipe
from recipes.run_folder import RunFolder
from recipes.stages import compress_run, eval_artifact, open_validation, quantize_run
from runtime.machine import Machine

GOLDEN = ROOT / "tests" / "golden_losses.json"


@pytest.mark.parametrize("name", MODEL_RECIPES)
def test_the_model_out_of_the_bytes_scores_as_the_dequantised_one_bit_for_bit(name, run_tiny):
    run = RunFolder(run_tiny(name, "bits"))
    recipe = run.recipe()
    held = recipe.model.build()
    codes = quantize_run(run) if recipe.pack.quantizer else quantize(held_weights(run), recipe.pack.plan)
    held.load_state_dict(dequantize(codes), strict=False)
    for name, module in held.named_modules():
        # These weights have been rounded; ternary ones would shrink if a layer did it again.
        if isinstance(module, Linear) and isinstance(codes[f"{name}.weight"], Coded):
            module.weight_map = stored_weight
    # A weight that wants a gradient lets torch choose another product, which on some CPUs rounds otherwise.
    held.requires_grad_(False)
    tokens = torch.randint(0, 320, (3, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        from_memory, _ = held(tokens[:, :-1], tokens[:, 1:])
        from_bytes, _ = open_packed(run.artifact, Machine()).model(tokens[:, :-1], tokens[:, 1:])
    assert torch.equal(from_memory, from_bytes)


def held_weights(run):
    """The float weights of a run, by another way than the stages take."""
    return load_file(run.weights)


def test_straight_through_training_ships_the_weights_it_trained_with(run_tiny):
    run = RunFolder(run_tiny("demo_qat", "qat", model__dim=64, model__layers__length=1))
    recipe, weights = run.recipe(), held_weights(run)
    trained = recipe.model.build()
    trained.load_state_dict(weights, strict=False)
    shipped = open_packed(run.artifact, Machine()).model
    for name in ("layers.0.mlp.up", "layers.0.mlp.down", "layers.0.attention.query"):
        module = trained.get_submodule(name)
        used = module.weight_map(module.weight)
        assert not torch.equal(used, module.weight)
        assert torch.equal(used, shipped.get_parameter(f"{name}.weight"))


def test_bytes_on_disk_are_the_bytes_counted(run_tiny):
    run = RunFolder(run_tiny("int5_int6", "bytes"))
    ledger = json.loads(run.ledger.read_text())
    entries = sum(entry["data"] + entry["scales"] for entry in ledger["entries"])
    assert entries + ledger["header"] + ledger["checksum"] == run.artifact.stat().st_size == ledger["model_total"]
    assert ledger["code"] == {"train_gpt.py": (run.code / "train_gpt.py").stat().st_size}
    assert [path.name for path in run.code.iterdir()] == ["train_gpt.py"]
    log = run.path.joinpath("train.log").read_text()
    assert f"Total submission size zstd22: {ledger['total']} bytes" in log


def test_every_byte_of_the_text_is_charged_once(tiny_data):
    dataset = open_dataset(tiny_data, 320)
    validation = open_validation(dataset)
    tokens = read_tokens(dataset.val_paths, 320)
    text = load_tokenizer(dataset.tokenizer_path).decode(tokens.tolist())
    uniform = lambda x, y: (torch.ones(y.shape), ())  # noqa: E731
    for window, stride in ((128, 16), (64, 64), (50, 7)):
        windows = plan_windows(validation.num_targets, window, stride)
        score = score_windows(uniform, tokens, windows, validation.byte_table, Machine())
        assert score.tokens == len(tokens) - 1 == score.nats
        assert score.bytes == len(text.encode())


def test_quantising_packing_and_scoring_again_gives_the_same_bytes_and_figures(run_tiny):
    run = RunFolder(run_tiny("int5_int6", "again"))
    codes, artifact, score = run.codes.read_bytes(), run.artifact.read_bytes(), json.loads(run.score.read_text())
    quantize_run(run)
    compress_run(run)
    report, _ = eval_artifact(run.artifact, MACHINE)
    assert (run.codes.read_bytes(), run.artifact.read_bytes()) == (codes, artifact)
    assert report.score.nats / report.score.tokens == score["val_loss"]
    assert report.artifact_sha256 == hashlib.sha256(artifact).hexdigest() == score["artifact_sha256"]


@pytest.mark.parametrize("trained, other", [("bf16", "fp32"), ("fp32", "bf16")])
def test_a_packed_model_computes_in_what_it_was_trained_in_whatever_machine_reads_it(run_tiny, trained, other):
    run = RunFolder(run_tiny("demo", trained, train__compute_dtype=trained))
    score = json.loads(run.score.read_text())
    compress_run(run)
    report, packed = eval_artifact(run.artifact, MACHINE.computing_in(other))
    assert packed.model.compute_dtype is MACHINE.computing_in(trained).compute_dtype
    assert report.score.nats / report.score.tokens == score["val_loss"]


def test_sliding_scores_no_worse_than_disjoint_windows(run_tiny):
    run = RunFolder(run_tiny("int5_int6", "slide", train__steps=30))
    disjoint, _ = eval_artifact(run.artifact, MACHINE, lambda recipe: EvalConfig(window=32, stride=32))
    sliding, _ = eval_artifact(run.artifact, MACHINE, lambda recipe: EvalConfig(window=32, stride=4))
    assert sliding.score.bytes == disjoint.score.bytes
    assert sliding.score.bpb < disjoint.score.bpb


def test_the_average_is_what_ships(run_tiny):
    run = RunFolder(run_tiny("int5_int6", "swa", average__every=2, average__start=2.0))
    facts = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    validations = {fact["weights"]: fact["val_bpb"] for fact in facts if fact["event"] == "validation"}
    assert list(validations) == ["last weights", "average of 5"]
    assert validations["last weights"] != validations["average of 5"]
    last = overridden(load_recipe("int5_int6"), tiny()).model.build()
    assert any(not torch.equal(p, held_weights(run)[name]) for name, p in last.named_parameters())
    checkpoint = load_file(run.checkpoint)
    name = "layers.0.mlp.up.weight"
    assert torch.equal(checkpoint[f"average.{name}"] / 5, held_weights(run)[name])
    assert not torch.equal(checkpoint[f"model.{name}"], held_weights(run)[name])


def golden_artifact_hash() -> str:
    """SHA-256 of the artifact of fixed weights: plan, codes and container at once."""
    recipe = overridden(load_recipe("int5_int6"), tiny())
    shapes = {name: p.shape for name, p in recipe.model.build().named_parameters()}
    weights = {
        name: (torch.arange(shape.numel(), dtype=torch.float32).view(shape) * 37 % 101 - 50) / 128
        for name, shape in shapes.items()
    }
    artifact = pack_model(recipe, tiny(), quantize(weights, recipe.pack.plan), "0" * 64)
    return hashlib.sha256(artifact).hexdigest()


def test_one_artifact_byte_for_byte():
    """A change here breaks every packed model."""
    assert golden_artifact_hash() == json.loads(GOLDEN.read_text())["artifact_sha256"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the losses are those of CPUs")
@pytest.mark.parametrize("name", MODEL_RECIPES)
def test_ten_golden_losses(name, run_tiny):
    """Seed 1337, fp32. Other CPUs round otherwise in the last places, so the bound is a ten-thousandth."""
    run = run_tiny(name, "golden")
    facts = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [fact["train_loss"] for fact in facts if fact["event"] == "step"]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())["losses"][name], rel=1e-4)


def test_codes_survive_their_file(run_tiny):
    run = RunFolder(run_tiny("int5_int6", "codes"))
    quantised = quantize(held_weights(run), run.recipe().pack.plan)
    for name, tensor in dequantize(load_codes(run.codes)).items():
        assert torch.equal(tensor, dequantize(quantised)[name])
