"""The hybrid on the pocket track: Gated DeltaNet in three of four layers of the scaled #465 stack, attention in one.

    torchrun --standalone --nproc_per_node=1 train_gpt.py hybrid_pocket --train.seed 42

1,139,553 parameters, about as many as `int5_int6_pocket`; everything else as there. Papers: those of recipes/hybrid.py.
"""

from dataclasses import replace

from model.attention import AttentionConfig
from model.deltanet import DeltaNetConfig
from model.gpt import LayerConfig
from model.mlp import MLPConfig
from recipes.int5_int6_pocket import int5_int6_pocket
from recipes.laptop import POCKET_TRACK
from recipes.recipe import Recipe, RecordConfig


def hybrid_pocket() -> Recipe:
    """4 x 160: Gated DeltaNet of 2 heads, keys of 40 and values of 80, attention in layer 1; MLP 400."""
    base = int5_int6_pocket()
    memory = LayerConfig(DeltaNetConfig(num_heads=2, expand_k=0.5, expand_v=1.0), MLPConfig(hidden=400))
    attention = LayerConfig(AttentionConfig(num_heads=4, num_kv_heads=2), MLPConfig(hidden=400))
    return replace(
        base,
        name="hybrid_pocket",
        model=replace(base.model, layers=(memory, attention, memory, memory)),
        train=replace(base.train, validate_every=125),
        record=RecordConfig(
            title="HybridPocket",
            blurb="The scaled #465 stack with Gated DeltaNet in three of four layers.",
            track=POCKET_TRACK,
        ),
    )
