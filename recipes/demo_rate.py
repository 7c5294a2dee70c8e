"""The demo in 400,000 bytes, code included: trained as ever, packed by rate to the last thousandth of that budget.

    torchrun --standalone --nproc_per_node=1 train_gpt.py demo_rate

83 steps, all that one thread of two busy CPU cores took in two minutes: 399,913 bytes (n = 1).
Papers: those of recipes/int5_int6_rate.py.
"""

from dataclasses import replace

from recipes.by_rate import RateQuantizer
from recipes.demo import demo
from recipes.int5_int6_rate import rate_pack
from recipes.recipe import Recipe, RecordConfig


def demo_rate() -> Recipe:
    """`demo` packed as `int5_int6_rate` is."""
    return replace(
        demo(),
        name="demo_rate",
        pack=rate_pack(RateQuantizer(batches=4, seconds=4.0), budget=400_000),
        record=RecordConfig(title="DemoRate", blurb="The demo by rate: GPTQ, trellis, range coder, 400,000 bytes."),
    )
