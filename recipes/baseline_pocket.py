"""The organisers' baseline on the pocket track: what recipes/baseline.py has, at four layers of 160, and nothing more.

    torchrun --standalone --nproc_per_node=1 train_gpt.py baseline_pocket

883,536 parameters. The momentum's warm-up and the rates' warm-down are as long a share of the run as published (500 and
1,200 of 13,780 steps), and tensors above 4,096 elements are int8, not those above 65,536. Its small batches take their
rows from everywhere, as those of the track's other recipes do; it is scored in windows without overlap, as published.
Papers: those of recipes/baseline.py.
"""

from dataclasses import replace

from model.attention import AttentionConfig
from model.gpt import LayerConfig
from model.laptop_gpt import LaptopGPTConfig
from model.mlp import MLPConfig
from optim.schedule import WarmdownFraction
from recipes.baseline import baseline
from recipes.laptop import LAPTOP_DATA, LAPTOP_EVAL, POCKET_BYTES, POCKET_TRACK, POCKET_TRAIN
from recipes.recipe import PackConfig, Recipe, RecordConfig


def baseline_pocket() -> Recipe:
    """4 x 160, 4 heads over 2, MLP 320, tied 1,024-entry vocabulary, windows of 512."""
    base = baseline()
    layer = LayerConfig(AttentionConfig(num_heads=4, num_kv_heads=2), MLPConfig(hidden=320))
    plan = tuple(replace(rule, max_elements=4096) if rule.max_elements else rule for rule in base.pack.plan)
    return replace(
        base,
        name="baseline_pocket",
        data=LAPTOP_DATA,
        model=LaptopGPTConfig(vocab_size=1024, dim=160, embed=base.model.embed, layers=(layer,) * 4),
        train=POCKET_TRAIN,
        optim=replace(base.optim, momentum_warmup_steps=60, warmdown=WarmdownFraction(0.087)),
        pack=PackConfig(plan, budget=POCKET_BYTES),
        eval=replace(LAPTOP_EVAL, stride=512),
        record=RecordConfig(
            title="BaselinePocket",
            blurb="The organisers' baseline at 4x160 with int8 rows, on two CPU cores.",
            track=POCKET_TRACK,
        ),
    )
