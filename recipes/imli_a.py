"""Imli's parent: ternary matrices around a gated convolution of eight tokens, and no memory beyond its layers' reach.

4,364,736 parameters. Published: 2.10 nats a token on TinyStories after 10.6 M tokens, two threads, two hours.

    torchrun --standalone --nproc_per_node=1 train_gpt.py imli_a

Papers: those of recipes/imli.py; changcheng967/FlashLM, v4 "Bolt".
"""

from dataclasses import replace

from model.gated_conv import GatedConvConfig
from recipes.imli import imli, ternary
from recipes.recipe import Recipe, RecordConfig


def imli_a() -> Recipe:
    """`imli` with a gated convolution in the place of Gated DeltaNet."""
    base = imli()
    layers = tuple(replace(layer, mixer=GatedConvConfig(size=8, linear=ternary())) for layer in base.model.layers)
    return replace(
        base,
        name="imli_a",
        model=replace(base.model, layers=layers),
        record=RecordConfig(title="ImliA", blurb="Gated convolutions with ternary matrices, five weights to a byte."),
    )
