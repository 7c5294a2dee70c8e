"""python -m benchmarks full_size: the 24.7 M parameters of int5_int6_rate, quantised, packed, unpacked, fitted.

Weights are Gaussian, and so are the inputs whose moments GPTQ weighs errors by, with deviations of e^N(0, 1/4) from
column to column: what is measured is time, memory, and where the file ends. The fit counts the code that ships.
"""

import time

import torch
from torch import Tensor

from benchmarks.row import Row
from compress.bundle import bundle_recipe
from compress.container import pack, unpack
from compress.expected import Expected
from quantize.grid import Codes
from quantize.plan import quantize
from recipes.packed import parameter_shapes
from recipes.recipe import Recipe
from runtime.machine import Machine
from runtime.source import repository_root

GIB = 2**30


def gaussian_weights(recipe: Recipe) -> dict[str, Tensor]:
    """Every parameter of the model, standard normal numbers of seed 0."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(recipe.model).items()}


def gaussian_moments(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """X^T X / N for each matrix, N = 4 columns; matrices of one width share."""
    shared = {width: _moment(width) for width in {weight.shape[1] for weight in weights.values() if weight.ndim == 2}}
    return {name: shared[weight.shape[1]] for name, weight in weights.items() if weight.ndim == 2}


def _moment(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    spread = torch.randn(width, generator=generator).div(2).exp()
    inputs = torch.randn(4 * width, width, generator=generator) * spread
    return inputs.T @ inputs / len(inputs)


def full_size_rows(recipe: Recipe, machine: Machine) -> list[Row]:
    """One pass with the plan's own steps, timed; then the fit. Raises RuntimeError when a file does not come back."""
    weights, config = gaussian_weights(recipe), recipe.pack
    moments = gaussian_moments(weights)
    times = [time.perf_counter()]
    codes = quantize(weights, config.plan, hessians=moments)
    times.append(time.perf_counter())
    artifact = _packed(recipe, codes)
    times.append(time.perf_counter())
    expected = Expected(parameter_shapes(recipe.model), config.coder, config.kinds)
    _, found = unpack(artifact, lambda _: expected)
    times.append(time.perf_counter())
    if _packed(recipe, found) != artifact:
        raise RuntimeError("the packed model came back as another one")
    quantising, encoding, decoding = (after - before for before, after in zip(times, times[1:], strict=False))
    peak, size = machine.peak_memory_bytes() / GIB, f"{len(artifact):,} bytes"
    return [
        Row("quantise_full_size", quantising, "seconds", ("<=", 300.0), 1, "GPTQ, trellis, one thread"),
        Row("encode_full_size", encoding, "seconds", ("<=", 5.0), 1, size),
        Row("decode_full_size", decoding, "seconds", ("<=", 5.0), 1, size),
        Row("memory_full_size", peak, "GiB", ("<=", 4.0), 1, "the whole process, weights and moments included"),
        _fitted_row(recipe, weights, moments),
    ]


def quantising_row(recipe: Recipe, machine: Machine) -> Row:
    """The seconds that a GPU takes for the plan's own steps, the second time: the first loads its libraries."""
    weights = gaussian_weights(recipe)
    moments = {name: moment.to(machine.device) for name, moment in gaussian_moments(weights).items()}
    for _ in range(2):
        machine.synchronize()
        start = time.perf_counter()
        quantize(weights, recipe.pack.plan, hessians=moments)
        machine.synchronize()
        seconds = time.perf_counter() - start
    return Row("quantise_full_size_gpu", seconds, "seconds", ("<=", 10.0), 1, "GPTQ, trellis; the second of two")


def _fitted_row(recipe: Recipe, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> Row:
    """The end of the fit; above the budget it raises, so the target is the lower end."""
    config, said = recipe.pack, []
    code = len(bundle_recipe(recipe.name, repository_root()).counted)
    start = time.perf_counter()
    codes = config.quantizer.codes(weights, moments, config, lambda codes: _packed(recipe, codes), code, said.append)
    seconds = time.perf_counter() - start
    total = code + len(_packed(recipe, codes))
    if total > config.budget:
        raise RuntimeError(f"the fit ended above its budget, at {total:,} bytes")
    return Row("fit_full_size", total, "bytes", (">=", 0.999 * config.budget), 1, f"{said[0]}; {seconds:.0f} s")


def _packed(recipe: Recipe, codes: Codes) -> bytes:
    return pack(codes, config={"recipe": recipe.name}, coder=recipe.pack.coder, kinds=recipe.pack.kinds)
