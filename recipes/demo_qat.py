"""The demo, trained on the weights that it will ship: every matrix is rounded to int5 in the forward pass.

The gradient passes the rounding as if it were not there (straight-through); the export rounds the same way, so what is
packed is what was trained.

    torchrun --standalone --nproc_per_node=1 train_gpt.py demo_qat

Paper: Bengio et al. 2013, arXiv 1308.3432 (straight-through estimator).
"""

from dataclasses import replace

from model.gpt import LayerConfig
from quantize.grid import INT5, INT8
from quantize.plan import Rule
from quantize.straight_through import StraightThrough
from recipes.demo import demo
from recipes.recipe import PackConfig, Recipe, RecordConfig


def demo_qat() -> Recipe:
    """`demo` with a straight-through int5 map on the matrices of its layers, and no average (it leaves the grid)."""
    base = demo()
    layers = tuple(
        LayerConfig(
            replace(layer.mixer, weight_map=StraightThrough(INT5)), replace(layer.mlp, weight_map=StraightThrough(INT5))
        )
        for layer in base.model.layers
    )
    return replace(
        base,
        name="demo_qat",
        model=replace(base.model, layers=layers),
        average=None,
        pack=PackConfig(
            plan=(
                Rule("matrices", INT5, pattern=r"^layers\.", ndim=2, min_elements=2049),
                Rule("tables", INT8, pattern=r"^embed\.", min_elements=2049),
                Rule("control", "fp16"),
            ),
        ),
        record=RecordConfig(title="DemoQAT", blurb="The demo with int5 matrices in the forward pass of its training."),
    )
