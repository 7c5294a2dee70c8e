"""The organisers' naive baseline: 9 layers of width 512, int8 and a general compressor; reproduced before it is beaten.

17,059,912 parameters. Published: 1.2244 bits per byte on FineWeb from 15,863,489 bytes, 13,780 steps of 43.54 ms on
8x H100 SXM (on an older export of the validation set). Not yet run by this project on that hardware.

    torchrun --standalone --nproc_per_node=8 train_gpt.py baseline

Two differences: the container is ours instead of torch.save, and zstd at level 22 stands where zlib at level 9 stood.
Papers: the organisers' repository openai/parameter-golf; Muon (Jordan et al. 2024).
"""

from eval.sliding import EvalConfig
from model.attention import AttentionConfig
from model.embed import TokenEmbeddingConfig
from model.gpt import GPTConfig, LayerConfig
from model.mlp import MLPConfig
from optim.groups import OptimConfig
from optim.schedule import WarmdownSteps
from optim.trainer import TrainConfig
from quantize.plans import baseline_int8_plan
from recipes.recipe import DataConfig, PackConfig, Recipe, RecordConfig


def baseline() -> Recipe:
    """9 x 512, 8 heads over 4, MLP 1024, tied 1,024-entry vocabulary, windows of 1,024."""
    return Recipe(
        name="baseline",
        data=DataConfig("data/datasets/fineweb10B_sp1024"),
        model=GPTConfig(
            vocab_size=1024,
            dim=512,
            embed=TokenEmbeddingConfig(init_std=0.005),
            layers=(LayerConfig(AttentionConfig(num_heads=8, num_kv_heads=4), MLPConfig(hidden=1024)),) * 9,
        ),
        train=TrainConfig(seconds=600.0, steps=20_000, tokens_per_step=524_288, window=1024, num_slices=8),
        optim=OptimConfig(
            matrix_lr=0.04,
            embedding_lr=0.05,
            scalar_lr=0.04,
            momentum=0.95,
            momentum_start=0.85,
            momentum_warmup_steps=500,
            muon_weight_decay=0.0,
            adam_weight_decay=0.0,
            grad_clip=None,
            warmdown=WarmdownSteps(1200),
        ),
        pack=PackConfig(plan=baseline_int8_plan()),
        eval=EvalConfig(window=1024, stride=1024),
        record=RecordConfig(
            title="NaiveBaseline",
            blurb="The organisers' 9x512 baseline with int8 rows, through the Sixteen pipeline.",
            track="track_10min_16mb",
        ),
    )
