"""The best that this project knows on the pocket track: the scaled hybrid over 4,096 pieces, packed by rate.

    make pocket SEED=42

1,631,073 parameters. What was tried, one thing at a time, stands in records/LOG.md.
Papers: those of recipes/hybrid.py and recipes/int5_int6_rate.py.
"""

from dataclasses import replace

from recipes.by_rate import RateQuantizer
from recipes.hybrid_pocket import hybrid_pocket
from recipes.int5_int6_rate import rate_pack
from recipes.laptop import POCKET_BYTES, POCKET_TRACK
from recipes.recipe import Recipe, RecordConfig


def pocket() -> Recipe:
    """`hybrid_pocket` over 4,096 pieces of text, in steps of 2,048 tokens: four windows of 512."""
    base = hybrid_pocket()
    return replace(
        base,
        name="pocket",
        data=replace(base.data, folder="data/datasets/sotu_sp4096"),
        model=replace(base.model, vocab_size=4096),
        train=replace(base.train, tokens_per_step=2048, num_slices=1, validate_every=300),
        pack=rate_pack(RateQuantizer(batches=8, seconds=4.0), budget=POCKET_BYTES),
        record=RecordConfig(
            title="Pocket",
            blurb="Gated DeltaNet and attention at 4x160, 4,096 pieces: GPTQ, trellis, range coder, fitted to size.",
            track=POCKET_TRACK,
        ),
    )
