"""Imli four times as large: 20,435,328 parameters, windows of 1,024. No result was published.

    torchrun --standalone --nproc_per_node=8 train_gpt.py imli_large

465 M tokens are an epoch of TinyStories. Papers: those of recipes/imli.py.
"""

from dataclasses import replace

from model.block import PreNormBlockConfig
from model.glu import GLUConfig
from recipes.imli import adamw, imli, imli_mixer, ternary, with_linear
from recipes.recipe import Recipe, RecordConfig


def imli_large() -> Recipe:
    """`imli` at 8 x 384, 6 heads of 48 by 96, GLU 1024."""
    base = imli()
    layers = (PreNormBlockConfig(imli_mixer(num_heads=6), GLUConfig(hidden=1024)),) * 8
    return replace(
        base,
        name="imli_large",
        model=with_linear(replace(base.model, dim=384, layers=layers), ternary()),
        train=replace(base.train, steps=14_190, tokens_per_step=32_768, window=1024, num_slices=8),
        optim=adamw(peak=3e-3, warmup_steps=500),
        eval=replace(base.eval, window=1024, stride=1024),
        record=RecordConfig(title="ImliLarge", blurb="Twenty million ternary parameters, mixed by Gated DeltaNet."),
    )
