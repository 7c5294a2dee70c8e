"""Imli on the pocket track: its published six layers of 192, ternary, over 1,024 pieces of vocabulary.

    torchrun --standalone --nproc_per_node=1 train_gpt.py imli_pocket --train.seed 42

3,318,720 parameters. The optimiser, its rates and the tokens of a step are those of recipes/imli.py; the first rise of
the rates is shorter, as the run is, and windows are those of the track's other recipes.
Papers: those of recipes/imli.py.
"""

from dataclasses import replace

from recipes.imli import adamw, imli
from recipes.laptop import LAPTOP_DATA, LAPTOP_EVAL, POCKET_BYTES, POCKET_TRACK, POCKET_TRAIN
from recipes.recipe import Recipe, RecordConfig


def imli_pocket() -> Recipe:
    """6 x 192, 4 heads of 36 by 72, GLU 512, tied 1,024-entry vocabulary, windows of 512."""
    base = imli()
    return replace(
        base,
        name="imli_pocket",
        data=LAPTOP_DATA,
        model=replace(base.model, vocab_size=1024),
        train=replace(POCKET_TRAIN, tokens_per_step=2048, validate_every=200),
        optim=adamw(peak=4e-3, warmup_steps=50),
        pack=replace(base.pack, budget=POCKET_BYTES),
        eval=LAPTOP_EVAL,
        record=RecordConfig(
            title="ImliPocket",
            blurb="Gated DeltaNet with ternary matrices, five weights to a byte, 1,024 pieces.",
            track=POCKET_TRACK,
        ),
    )
