"""The stack of pull request 465 with Gated DeltaNet in most of its layers: attention in every fourth.

24,002,513 parameters, so that it packs into the same budget; wider mixers and a narrower MLP than `int5_int6`. Built to
that stack's published settings; it has no published score, and nobody has run it on eight H100s yet.

    torchrun --standalone --nproc_per_node=8 train_gpt.py hybrid --train.seed 42

Beside the papers of recipes/int5_int6.py: Gated DeltaNet and its hybrids, arXiv 2412.06464.
"""

from dataclasses import replace

from model.attention import AttentionConfig
from model.deltanet import DeltaNetConfig
from model.gpt import LayerConfig
from model.mlp import MLPConfig
from recipes.int5_int6 import int5_int6
from recipes.recipe import Recipe, RecordConfig


def hybrid() -> Recipe:
    """10 x 512: Gated DeltaNet of 4 heads, keys of 64 and values of 128, attention in layers 1, 5 and 9; MLP 1280."""
    base = int5_int6()
    memory = LayerConfig(DeltaNetConfig(num_heads=4, expand_k=0.5, expand_v=1.0), MLPConfig(hidden=1280))
    attention = LayerConfig(AttentionConfig(num_heads=8, num_kv_heads=4), MLPConfig(hidden=1280))
    return replace(
        base,
        name="hybrid",
        model=replace(base.model, layers=(memory, attention, memory, memory) * 2 + (memory, attention)),
        record=RecordConfig(
            title="Hybrid",
            blurb="The #465 stack with Gated DeltaNet in seven of ten layers and attention in three.",
            track="track_10min_16mb",
        ),
    )
