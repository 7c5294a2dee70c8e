"""Parameter Golf pull request 465: 10 layers of width 512, int5 MLP, int6 attention, zstd-22.

24,730,705 parameters. Published: 1.1508 bits per byte on FineWeb (mean of seeds 42, 1337, 2024), 15,680,288 bytes,
5,999 steps of 100 ms on 8x H100 SXM. Not yet run by this project on that hardware.

    torchrun --standalone --nproc_per_node=8 train_gpt.py int5_int6 --train.seed 42

The embedding stays fp16; int6, an option of that request, is `embedding=INT6` in `int5_int6_plan`.
Papers: pull requests 162, 180 and 465 (SmearGate, BigramHash, OrthoInit, SWA); SWA, arXiv 1803.05407.
"""

from compress.coder import ZSTD22
from eval.sliding import EvalConfig
from model.attention import AttentionConfig
from model.embed import SmearBigramConfig
from model.gpt import GPTConfig, LayerConfig
from model.mlp import MLPConfig
from optim.average import SWAConfig
from optim.groups import OptimConfig
from optim.schedule import WarmdownSteps
from optim.trainer import TrainConfig
from quantize.plans import int5_int6_plan
from recipes.recipe import DataConfig, PackConfig, Recipe, RecordConfig


def int5_int6() -> Recipe:
    """10 x 512, 8 heads over 4, MLP 1536, SmearGate, BigramHash 4096 x 128, windows of 2,048."""
    return Recipe(
        name="int5_int6",
        data=DataConfig("data/datasets/fineweb10B_sp1024"),
        model=GPTConfig(
            vocab_size=1024,
            dim=512,
            embed=SmearBigramConfig(bigram_rows=4096, bigram_dim=128),
            layers=(LayerConfig(AttentionConfig(num_heads=8, num_kv_heads=4), MLPConfig(hidden=1536)),) * 10,
            orthogonal_init=True,
        ),
        train=TrainConfig(seconds=600.0, steps=20_000, tokens_per_step=786_432, window=2048, num_slices=8),
        optim=OptimConfig(
            matrix_lr=0.02,
            embedding_lr=0.03,
            scalar_lr=0.02,
            momentum=0.99,
            momentum_start=0.92,
            momentum_warmup_steps=1500,
            muon_weight_decay=0.04,
            adam_weight_decay=0.01,
            grad_clip=0.3,
            warmdown=WarmdownSteps(3000),
        ),
        average=SWAConfig(every=50, start=0.5),
        pack=PackConfig(plan=int5_int6_plan(num_layers=10), coder=ZSTD22),
        eval=EvalConfig(window=2048, stride=64),
        record=RecordConfig(
            title="Int5Int6",
            blurb="10 layers, int5 MLP, int6 attention, SmearGate, BigramHash, OrthoInit, SWA, zstd-22, sliding.",
            track="track_10min_16mb",
        ),
    )
