"""The best that this project knows on the pocket track: the scaled #465 stack over 4,096 pieces, packed by rate.

    make pocket SEED=42

1,650,673 parameters. What was tried, one thing at a time, stands in records/LOG.md.
Papers: those of recipes/int5_int6.py and recipes/int5_int6_rate.py.
"""

from dataclasses import replace

from recipes.by_rate import RateQuantizer
from recipes.int5_int6_pocket import int5_int6_pocket
from recipes.int5_int6_rate import rate_pack
from recipes.laptop import POCKET_BYTES, POCKET_TRACK
from recipes.recipe import Recipe, RecordConfig


def pocket() -> Recipe:
    """4 x 160, 4 heads over 2, MLP 480, SmearGate, BigramHash 2048 x 32, 4,096 pieces, windows of 512."""
    base = int5_int6_pocket()
    return replace(
        base,
        name="pocket",
        data=replace(base.data, folder="data/datasets/sotu_sp4096"),
        model=replace(base.model, vocab_size=4096),
        train=replace(base.train, tokens_per_step=2048, num_slices=1, validate_every=400),
        pack=rate_pack(RateQuantizer(batches=8, seconds=4.0), budget=POCKET_BYTES),
        record=RecordConfig(
            title="Pocket",
            blurb="The #465 stack at 4x160 over 4,096 pieces: GPTQ, 8-state trellis, range coder, fitted to the byte.",
            track=POCKET_TRACK,
        ),
    )
