"""The best that this project knows on the pocket track: a narrow hybrid over 4,096 pieces, packed by rate.

    make pocket SEED=42

1,698,897 parameters. Narrow, so that many tokens fit into the time; the bytes that are left hold a large bigram table,
which costs no time; a slow average of the weights takes back some of what several epochs learn by heart. What was
tried, one thing at a time, stands in records/LOG.md.
Papers: those of recipes/hybrid.py and recipes/int5_int6_rate.py.
"""

from dataclasses import replace

from model.embed import SmearBigramConfig
from model.mlp import MLPConfig
from optim.average import EMAConfig
from recipes.by_rate import RateQuantizer
from recipes.hybrid_pocket import hybrid_pocket
from recipes.int5_int6_rate import rate_pack
from recipes.laptop import POCKET_BYTES, POCKET_TRACK
from recipes.recipe import Recipe, RecordConfig


def pocket() -> Recipe:
    """4 x 128: `hybrid_pocket`'s mixers, MLP 384, BigramHash 16384 x 32, steps of 2,048 tokens in windows of 512."""
    base = hybrid_pocket()
    return replace(
        base,
        name="pocket",
        data=replace(base.data, folder="data/datasets/sotu_sp4096"),
        model=replace(
            base.model,
            vocab_size=4096,
            dim=128,
            embed=SmearBigramConfig(bigram_rows=16_384, bigram_dim=32),
            layers=tuple(replace(layer, mlp=MLPConfig(hidden=384)) for layer in base.model.layers),
        ),
        train=replace(base.train, tokens_per_step=2048, num_slices=1, validate_every=400),
        average=EMAConfig(decay=0.998),
        pack=rate_pack(RateQuantizer(batches=8, seconds=4.0), budget=POCKET_BYTES),
        record=RecordConfig(
            title="Pocket",
            blurb="Gated DeltaNet and attention at 4x128, 4,096 pieces: GPTQ, trellis, range coder, fitted to size.",
            track=POCKET_TRACK,
        ),
    )
