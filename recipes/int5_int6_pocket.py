"""Pull request 465 on the pocket track: the demo's model for ten minutes, int5 MLP and int6 attention as published.

    torchrun --standalone --nproc_per_node=1 train_gpt.py int5_int6_pocket --train.seed 42

1,159,153 parameters. Beside its size it differs from recipes/int5_int6.py in what short runs need: the rates stay at
their height for less of the run, weights are averaged exponentially, and the tables are int8.
Papers: those of recipes/int5_int6.py.
"""

from dataclasses import replace

from quantize.grid import INT5, INT6, INT8
from quantize.plan import Rule
from recipes.demo import demo
from recipes.laptop import POCKET_BYTES, POCKET_TRACK, POCKET_TRAIN
from recipes.recipe import PackConfig, Recipe, RecordConfig


def int5_int6_pocket() -> Recipe:
    """`demo` for 600 seconds: 4 x 160, 4 heads over 2, MLP 480, SmearGate, BigramHash 2048 x 32, windows of 512."""
    plan = (
        Rule("control", "fp16", max_elements=4096),
        Rule("tables", INT8, pattern=r"^embed\."),
        Rule("mlp", INT5, pattern=r"\.mlp\."),
        Rule("attention", INT6, pattern=r"\.attention\."),
    )
    return replace(
        demo(),
        name="int5_int6_pocket",
        train=POCKET_TRAIN,
        pack=PackConfig(plan, budget=POCKET_BYTES),
        record=RecordConfig(
            title="Int5Int6Pocket",
            blurb="The #465 stack on two CPU cores: int5 MLP, int6 attention, SmearGate, BigramHash, OrthoInit, EMA.",
            track=POCKET_TRACK,
        ),
    )
