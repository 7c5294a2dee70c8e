"""Two minutes on two CPU cores: the stack of pull request 465 at the size of a laptop, on the bundled speeches.

    make demo
    torchrun --standalone --nproc_per_node=1 train_gpt.py demo --train.seconds 300

Papers: those of recipes/int5_int6.py.
"""

from model.attention import AttentionConfig
from model.embed import SmearBigramConfig
from model.gpt import LayerConfig
from model.laptop_gpt import LaptopGPTConfig
from model.mlp import MLPConfig
from optim.average import EMAConfig
from recipes.laptop import LAPTOP_DATA, LAPTOP_EVAL, LAPTOP_OPTIM, LAPTOP_PLAN, LAPTOP_TRAIN
from recipes.recipe import PackConfig, Recipe, RecordConfig


def demo() -> Recipe:
    """4 x 160, 4 heads over 2, MLP 480, SmearGate, BigramHash 2048 x 32, windows of 512."""
    return Recipe(
        name="demo",
        data=LAPTOP_DATA,
        model=LaptopGPTConfig(
            vocab_size=1024,
            dim=160,
            embed=SmearBigramConfig(bigram_rows=2048, bigram_dim=32),
            layers=(LayerConfig(AttentionConfig(num_heads=4, num_kv_heads=2), MLPConfig(hidden=480)),) * 4,
            orthogonal_init=True,
        ),
        train=LAPTOP_TRAIN,
        optim=LAPTOP_OPTIM,
        average=EMAConfig(decay=0.98),
        pack=PackConfig(LAPTOP_PLAN),
        eval=LAPTOP_EVAL,
        record=RecordConfig(title="Demo", blurb="Two minutes of the #465 stack, scaled to two CPU cores."),
    )
