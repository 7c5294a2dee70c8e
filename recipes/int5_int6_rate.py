"""`int5_int6` with steps by rate instead of widths: GPTQ, a trellis, a range coder, and a file that fills the budget.

Moments of the inputs of every matrix are measured on one step's training batch, in the last two seconds of the ten
minutes. The fit to the budget follows after training, on the CPU: about five tries, each 19 s of one core (the six
matrices of ten layers with Gaussian weights, n = 1). Not yet run by this project on eight GPUs.

    torchrun --standalone --nproc_per_node=8 train_gpt.py int5_int6_rate --train.seed 42

Papers: those of recipes/int5_int6.py; GPTQ, arXiv 2210.17323; WaterSIC, arXiv 2603.04956; entropy-constrained
trellis-coded quantisation, Fischer and Wang 1992.
"""

from dataclasses import replace

from compress.range_coder import RangeKind
from compress.step_scales import StepTrellisKind
from quantize.gptq import GPTQ
from quantize.plan import Rule
from quantize.steps import UNIFORM, ColumnStep, TensorStep
from quantize.trellis import TRELLIS8
from recipes.by_rate import RateQuantizer
from recipes.int5_int6 import int5_int6
from recipes.recipe import PackConfig, Recipe, RecordConfig


def int5_int6_rate() -> Recipe:
    """`int5_int6`, every weight of a matrix at the same cost to the outputs, the token table at half that step."""
    base = int5_int6()
    return replace(
        base,
        name="int5_int6_rate",
        pack=rate_pack(RateQuantizer(batches=1), budget=base.pack.budget),
        record=RecordConfig(
            title="Int5Int6Rate",
            blurb="The int5_int6 stack by rate: GPTQ, 8-state trellis, range coder, steps fitted to the budget.",
            track="track_10min_16mb",
        ),
    )


def rate_pack(quantizer: RateQuantizer, budget: int) -> PackConfig:
    """Matrices on a trellis by GPTQ, steps by column; the bigram table, which multiplies nothing, on a plain grid."""
    return PackConfig(
        plan=(
            Rule("bigrams", UNIFORM, pattern=r"^embed\.bigram\.table\.", scale=TensorStep(12.85)),
            Rule("tokens", TRELLIS8, pattern=r"^embed\.tokens\.", scale=ColumnStep(6.4), method=GPTQ()),
            Rule("matrices", TRELLIS8, pattern=r"\.weight$", scale=ColumnStep(12.85), method=GPTQ()),
            Rule("control", "fp16"),
        ),
        kinds=(RangeKind(UNIFORM, "tensor"), StepTrellisKind(TRELLIS8, "column")),
        quantizer=quantizer,
        budget=budget,
    )
