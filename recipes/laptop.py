"""What the recipes for two CPU cores share: batches, learning rates and grids at the size of a laptop."""

from optim.groups import OptimConfig
from optim.schedule import WarmdownFraction
from optim.trainer import TrainConfig
from quantize.grid import INT6, INT8
from quantize.plan import Rule

LAPTOP_TRAIN = TrainConfig(
    seconds=300.0,
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
