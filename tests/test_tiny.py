"""The tour: what the pipeline does, on a model of two layers and width 32. Read this first.

A recipe is trained, its weights become small integers, the integers become bytes, the bytes are scored, and the
evidence lies in a record folder. Every recipe takes the same way.
"""

import json
import math

import pytest
from tiny_runs import VOCAB, tiny

from compress.container import read_config
from eval.sliding import plan_windows
from quantize.codes_file import load_codes
from quantize.grid import Coded
from quantize.plan import plan_grids
from recipes.override import overridden
from recipes.packed import open_packed
from recipes.recipe import load_recipe, recipe_names
from runtime.checkpoint import load_checkpoint
from runtime.machine import Machine


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_goes_from_tokens_to_a_record(name, run_tiny, workplace, capsys):
    run = run_tiny(name, "tour")

    # It learns: ten steps bring the loss down from ln V, where an untrained model stands.
    facts = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [fact["train_loss"] for fact in facts if fact["event"] == "step"]
    assert len(losses) == 10
    assert losses[0] == pytest.approx(math.log(VOCAB), abs=0.15)
    assert losses[-1] < losses[0] - 0.3

    # Weights -> codes: most numbers of the large matrices are integers now.
    weights, _ = load_checkpoint(run / "weights.safetensors")
    codes = load_codes(run / "codes.safetensors", plan_grids(load_recipe(name).pack.plan))
    assert codes.keys() == weights.keys()

    # Codes -> bytes: one file that says whose it is, and a ledger that adds up to what lies on disk.
    artifact = (run / "model.bin").read_bytes()
    assert read_config(artifact)["recipe"] == name
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["model_total"] == len(artifact)
    assert ledger["total"] == len(artifact) + sum(ledger["code"].values()) < ledger["budget"]

    # Bytes -> score: better than an untrained model's, on every token of the split.
    score = json.loads((run / "score.json").read_text())
    assert score["val_loss"] < math.log(VOCAB) - 0.3
    assert score["val_bpb"] == pytest.approx(score["val_loss"] / math.log(2) * score["tokens"] / score["bytes"])
    assert score["artifact_bytes"] == len(artifact)

    # And the evidence: a record folder with the log, the sizes and the very bytes.
    record = next(workplace.glob("records/*/*/submission.json")).parent
    assert (record / "model.bin").read_bytes() == artifact
    assert json.loads((record / "submission.json").read_text())["val_bpb"] == pytest.approx(score["val_bpb"])
    assert f"record: {record.relative_to(workplace)}" in capsys.readouterr().out


def test_the_packed_model_needs_nothing_but_its_bytes(run_tiny, tmp_path):
    run = run_tiny("demo", "bytes")
    lonely = tmp_path / "lonely.bin"
    lonely.write_bytes((run / "model.bin").read_bytes())
    packed = open_packed(lonely, Machine())
    assert packed.model.config == overridden(load_recipe("demo"), tiny()).model


def test_large_matrices_become_integers_and_controls_stay_numbers(run_tiny):
    recipe = load_recipe("demo")
    run = run_tiny("demo", "kinds", model__dim=64, model__layers__length=1)
    codes = load_codes(run / "codes.safetensors")
    assert isinstance(codes["layers.0.mlp.up.weight"], Coded) or recipe.pack.plan[0].max_elements >= 64 * 64
    assert not isinstance(codes["layers.0.resid_mix"], Coded)


def test_windows_cover_a_text_once():
    covered = [0] * 1000
    for window in plan_windows(1000, window=128, stride=16):
        for target in range(window.start + window.length - window.scored, window.start + window.length):
            covered[target] += 1
    assert covered == [1] * 1000
