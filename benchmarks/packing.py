"""python -m benchmarks.packing: quantises, packs and unpacks the 24.7 M parameters of int5_int6; prints the bytes."""

import torch

from compress.container import pack, unpack
from compress.expected import Expected
from quantize.plan import quantize
from recipes.packed import parameter_shapes
from recipes.recipe import load_recipe


def pack_gaussian_model() -> int:
    """Bytes of the artifact with Gaussian weights of seed 0. Raises RuntimeError when it does not come back whole."""
    recipe = load_recipe("int5_int6")
    shapes = parameter_shapes(recipe.model)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    artifact = pack(quantize(weights, recipe.pack.plan), config={})
    weights.clear()
    if unpack(artifact, lambda _: Expected(shapes))[1].keys() != shapes.keys():
        raise RuntimeError("the packed model lost tensors")
    return len(artifact)


if __name__ == "__main__":
    print(pack_gaussian_model())  # noqa: T201
