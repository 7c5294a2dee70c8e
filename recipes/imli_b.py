"""Imli's second: a norm inside every ternary matrix, one number for every 256 weights, short windows first.

4,370,112 parameters. The published curriculum takes windows of 128, 256 and 512 tokens, an epoch each. Here it goes by
tokens, a third of them each, with as many tokens in every step and validation always at 512: the original compared
losses at different lengths, and its learning rate rose again.

    torchrun --standalone --nproc_per_node=1 train_gpt.py imli_b

Papers: those of recipes/imli.py; altpav/FlashLM, trainv4.py.
"""

from dataclasses import replace

from model.norm import NoNormConfig, NormConfig
from optim.curriculum import Curriculum, CurriculumStage
from recipes.imli import adamw, ternary, ternary_plan, with_linear
from recipes.imli_a import imli_a
from recipes.recipe import Recipe, RecordConfig


def imli_b() -> Recipe:
    """`imli_a` with its norms inside the matrices, numbers of 256 weights each, windows of 128, 256 and 512."""
    base = imli_a()
    linear = replace(ternary(per_block=True), norm=NormConfig())
    layers = tuple(replace(layer, norm=NoNormConfig()) for layer in base.model.layers)
    stages = (CurriculumStage(128, 13_500_000), CurriculumStage(256, 26_900_000))
    return replace(
        base,
        name="imli_b",
        model=with_linear(replace(base.model, layers=layers), linear),
        train=replace(base.train, steps=9_863, tokens_per_step=4096, window=512, curriculum=Curriculum(stages)),
        optim=adamw(peak=4e-3, warmup_steps=1000),
        pack=replace(base.pack, plan=ternary_plan(per_block=True)),
        eval=replace(base.eval, window=512, stride=512),
        record=RecordConfig(title="ImliB", blurb="Gated convolutions, norms inside ternary matrices, a curriculum."),
    )
