"""BakaLLM, branch zero: memory tokens, caches and moving averages from chunk to chunk, scored as a stream.

    torchrun --standalone --nproc_per_node=1 train_gpt.py baka
    python -m eval memory runs/ID        what memory and caches are worth

`baka` is the size for two CPU cores; `baka_w103` and `baka_tinystories` are the published ones, of 200,135,821 and
50,681,449 parameters (as published, with half a width of rotary frequencies a block counted), by plain AdamW.

Measured once (n = 1), `--train.seconds 150` with one thread on two Intel Xeon cores that others kept busy, in fp32: 66
steps, 2.0592 bits per byte as a stream, 914,829 bytes of model and 22,975 of code; 2.0711 with the memory off, 2.0611
with the caches off. Its record on the pocket track: 1.4012 after 4.8e13 model FLOPs (n = 1). No run of a published
size yet.

recipes/BAKA.md has the author's figures beside those measured here.

Papers: the author's posts, part 2 (the model) and 11 (the suffix); those that model/baka/ names.
"""

from dataclasses import replace

from data.documents import DocumentsConfig
from eval.streaming import StreamConfig
from model.baka.block import BakaBlockConfig
from model.baka.laptop import LaptopBakaConfig
from model.baka.memory import MemoryConfig
from model.baka.model import BakaConfig
from model.embed import PlainEmbeddingConfig
from model.glu import GLUConfig
from optim.average import EMAConfig
from optim.carry import CarryingTrainer
from optim.groups import OptimConfig
from optim.schedule import WarmdownSteps
from optim.trainer import TrainConfig
from recipes.laptop import LAPTOP_OPTIM, LAPTOP_PLAN, POCKET_BYTES, POCKET_TRACK, POCKET_TRAIN
from recipes.recipe import DataConfig, PackConfig, Recipe, RecordConfig


def baka() -> Recipe:
    """2 x 160 and the solidifier, MLP 320, chunks of 256 tokens between memories of 8, rows of two chunks."""
    return Recipe(
        name="baka",
        data=DataConfig("data/datasets/sotu_sp1024", loader=DocumentsConfig(lanes=2)),
        model=LaptopBakaConfig(
            vocab_size=1024,
            dim=160,
            layers=(BakaBlockConfig(GLUConfig(hidden=320, activation="relu"), dropout=0.0),) * 2,
            window=256,
            memory=MemoryConfig(num_tokens=8),
            embed=PlainEmbeddingConfig(init_std=0.02),
            tied=True,
        ),
        train=POCKET_TRAIN,
        optim=LAPTOP_OPTIM,
        average=EMAConfig(decay=0.98),
        pack=PackConfig(LAPTOP_PLAN, budget=POCKET_BYTES),
        eval=StreamConfig(chunk=512, documents="restart", batch_tokens=16_384),
        record=RecordConfig(
            title="Baka",
            blurb="BakaLLM branch zero: segment memory and caches, scored as a stream.",
            track=POCKET_TRACK,
        ),
        trainer=CarryingTrainer,
    )


def baka_w103() -> Recipe:
    """12 x 768, MLP 2048, chunks of 512 between memories of 32; rows of 2048 tokens, three documents a step."""
    return _published(dim=768, num_layers=12, hidden=2048, documents=3)


def baka_tinystories() -> Recipe:
    """8 x 320, MLP 1280, chunks of 512 between memories of 32; rows of 2048 tokens, six documents a step."""
    return _published(dim=320, num_layers=8, hidden=1280, documents=6)


def _published(dim: int, num_layers: int, hidden: int, documents: int) -> Recipe:
    """A published preset: the vocabulary of Pythia, AdamW at its defaults, no schedule, no clipping."""
    small = baka()
    return replace(
        small,
        model=BakaConfig(
            vocab_size=50_277,
            dim=dim,
            layers=(BakaBlockConfig(GLUConfig(hidden, activation="relu")),) * num_layers,
        ),
        data=DataConfig(loader=DocumentsConfig(lanes=1)),
        train=TrainConfig(seconds=None, steps=100_000, tokens_per_step=2048 * documents, window=2048, num_slices=1),
        optim=OptimConfig(
            matrix_optimizer="adamw",
            matrix_lr=1e-3,
            embedding_lr=1e-3,
            scalar_lr=1e-3,
            adam_betas=(0.9, 0.999),
            grad_clip=None,
            warmdown=WarmdownSteps(1),
        ),
        average=None,
        eval=replace(small.eval, chunk=2048),
    )
