"""Two minutes on two CPU cores: the stack of pull request 465 at the size of a laptop, on the bundled speeches.

    make demo
    torchrun --standalone --nproc_per_node=1 train_gpt.py demo --train.seconds 300

Papers: those of recipes/int5_int6.py.
"""

from dataclasses import replace

from data.coprime import CoprimeLoader
from eval.sliding import EvalConfig
from model.attention import AttentionConfig
from model.embed import SmearBigramConfig
from model.gpt import GPTConfig, LayerConfig
from model.mlp import MLPConfig
from optim.average import EMAConfig
from recipes.laptop import LAPTOP_OPTIM, LAPTOP_PLAN, LAPTOP_TRAIN
from recipes.recipe import DataConfig, PackConfig, Recipe, RecordConfig


def demo() -> Recipe:
    """4 x 160, 4 heads over 2, MLP 480, SmearGate, BigramHash 2048 x 32, windows of 512."""
    return Recipe(
        name="demo",
        data=DataConfig("data/datasets/sotu_sp1024", loader=CoprimeLoader),
        model=GPTConfig(
            vocab_size=1024,
            dim=160,
            embed=SmearBigramConfig(bigram_rows=2048, bigram_dim=32),
            layers=(LayerConfig(AttentionConfig(num_heads=4, num_kv_heads=2), MLPConfig(hidden=480)),) * 4,
            orthogonal_init=True,
        ),
        train=replace(LAPTOP_TRAIN, seconds=120.0),
        optim=LAPTOP_OPTIM,
        average=EMAConfig(decay=0.98),
        pack=PackConfig(LAPTOP_PLAN),
        eval=EvalConfig(window=512, stride=64, batch_tokens=16_384),
        record=RecordConfig(title="Demo", blurb="Two minutes of the #465 stack, scaled to two CPU cores."),
    )
