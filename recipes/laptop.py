"""What the recipes for two CPU cores share: batches, learning rates and grids at the size of a laptop, and the pocket.

The pocket track (records/track_pocket/README.md) is ten minutes of two cores and a million bytes, code included.
"""

from dataclasses import replace

from data.coprime import CoprimeLoader
from eval.sliding import EvalConfig
from optim.groups import OptimConfig
from optim.schedule import WarmdownFraction
from optim.trainer import TrainConfig
from quantize.grid import INT6, INT8
from quantize.plan import Rule
from recipes.recipe import DataConfig

LAPTOP_DATA = DataConfig("data/datasets/sotu_sp1024", loader=CoprimeLoader)
LAPTOP_TRAIN = TrainConfig(
    seconds=120.0,
    tokens_per_step=4096,
    window=512,
    num_slices=2,
    log_every=20,
    validate_every=None,
    checkpoint_every=100,
)
LAPTOP_OPTIM = OptimConfig(
    momentum=0.95,
    momentum_start=0.85,
    momentum_warmup_steps=100,
    grad_clip=1.0,
    warmdown=WarmdownFraction(0.6),
)
LAPTOP_PLAN = (
    Rule("control", "fp16", max_elements=4096),
    Rule("tables", INT8, pattern=r"^embed\."),
    Rule("matrices", INT6),
)
LAPTOP_EVAL = EvalConfig(window=512, stride=64, batch_tokens=16_384)

# Some eight points of a curve: the clock stands still for each, which takes as long as some ten steps.
POCKET_TRAIN = replace(LAPTOP_TRAIN, seconds=600.0, validate_every=200)
POCKET_BYTES = 1_000_000
POCKET_TRACK = "track_pocket"
