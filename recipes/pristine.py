"""BakaLLM, "pristine": a parallel stack over independent windows, and three ways to say where a token stands.

    torchrun --standalone --nproc_per_node=1 train_gpt.py pristine

`pristine` is the size for two CPU cores; `pristine_w103` is the published one, of 190,492,032 parameters (as published,
with 32 rotary frequencies a layer counted). `positioned` exchanges the positions: rotary, none, or a ramp on the keys.

On the pocket track it reads 1.3372 bits per byte after 5e13 model FLOPs (n = 1); no run of the published size yet.

recipes/BAKA.md has the author's figures beside those measured here.

Papers: the author's post, part 4; those that model/pristine/ names.
"""

from dataclasses import replace

from data.loader import SequentialLoader
from model.embed import PlainEmbeddingConfig
from model.glu import GLUConfig
from model.pristine.block import ParallelBlockConfig, WindowAttentionConfig
from model.pristine.laptop import LaptopPristineConfig
from model.pristine.model import PristineConfig
from model.pristine.positions import PositionsConfig
from optim.average import EMAConfig
from optim.groups import OptimConfig
from optim.schedule import WarmdownSteps
from optim.trainer import TrainConfig
from recipes.laptop import LAPTOP_DATA, LAPTOP_EVAL, LAPTOP_OPTIM, LAPTOP_PLAN, POCKET_BYTES, POCKET_TRACK, POCKET_TRAIN
from recipes.recipe import DataConfig, PackConfig, Recipe, RecordConfig


def pristine() -> Recipe:
    """3 x 160, 4 heads, MLP 480, rotary positions, windows of 512."""
    return Recipe(
        name="pristine",
        data=LAPTOP_DATA,
        model=LaptopPristineConfig(
            vocab_size=1024,
            dim=160,
            layers=(ParallelBlockConfig(WindowAttentionConfig(num_heads=4), GLUConfig(hidden=480)),) * 3,
            window=512,
            embed=PlainEmbeddingConfig(init_std=0.02),
            tied=True,
        ),
        train=POCKET_TRAIN,
        optim=LAPTOP_OPTIM,
        average=EMAConfig(decay=0.98),
        pack=PackConfig(LAPTOP_PLAN, budget=POCKET_BYTES),
        eval=LAPTOP_EVAL,
        record=RecordConfig(
            title="Pristine",
            blurb="BakaLLM pristine: parallel residual, independent windows, rotary positions.",
            track=POCKET_TRACK,
        ),
    )


def positioned(recipe: Recipe, positions: PositionsConfig) -> Recipe:
    """`pristine` or its published size with other positions in every layer."""
    layers = tuple(replace(layer, mixer=replace(layer.mixer, positions=positions)) for layer in recipe.model.layers)
    return replace(recipe, model=replace(recipe.model, layers=layers))


def pristine_w103() -> Recipe:
    """12 x 768, 12 heads, MLP 3072, windows of 512: the size of Pythia 160m, by AdamW at its defaults, clipped at 1."""
    small = pristine()
    return replace(
        small,
        model=PristineConfig(
            vocab_size=50_277,
            dim=768,
            layers=(ParallelBlockConfig(WindowAttentionConfig(num_heads=12), GLUConfig(hidden=3072)),) * 12,
        ),
        data=DataConfig(loader=SequentialLoader),
        train=TrainConfig(seconds=None, steps=68_000, tokens_per_step=6 * 2048, window=2048, num_slices=1),
        optim=OptimConfig(
            matrix_optimizer="adamw",
            matrix_lr=1e-3,
            embedding_lr=1e-3,
            scalar_lr=1e-3,
            adam_betas=(0.9, 0.999),
            grad_clip=1.0,
            warmdown=WarmdownSteps(1),
        ),
        average=None,
    )
