"""The two plans of the competition that this repository reproduces, over the parameter names of `model`."""

from quantize.grid import INT5, INT6, INT8, Grid
from quantize.plan import Rule
from quantize.scale import RowPercentile

# Both scripts keep tensors of up to this many elements in floating point.
LARGEST_FLOAT = 65_536
CONTROL_NAMES = r"attn_scale|mlp_scale|resid_mix|q_gain|skip_weight"


def baseline_int8_plan() -> tuple[Rule, ...]:
    """The organisers' baseline: int8 with the percentile clip; small tensors in fp16, small controls in fp32."""
    return (
        Rule("control", "fp32", pattern=CONTROL_NAMES, max_elements=LARGEST_FLOAT),
        Rule("small", "fp16", max_elements=LARGEST_FLOAT),
        Rule("int8", INT8, scale=RowPercentile()),
    )


def int5_int6_plan(
    num_layers: int,
    embedding: Grid | None = None,  # None: fp16; INT8 and INT6 are the options of #465
) -> tuple[Rule, ...]:
    """Pull request #465: MLP on int5, attention on int6, token embedding and the last key projection in fp16.

    The rule for small tensors stands first: it takes every control tensor and the bigram projection, which has exactly
    65,536 elements. What no name claims, such as the bigram table, is int8 with the percentile clip.
    """
    return (
        Rule("small", "fp16", max_elements=LARGEST_FLOAT),
        Rule("embedding", embedding or "fp16", pattern=r"^embed\.tokens\.weight$"),
        Rule("last key", "fp16", pattern=rf"^layers\.{num_layers - 1}\.attention\.key\.weight$"),
        Rule("mlp", INT5, pattern=r"\.mlp\."),
        Rule("attention", INT6, pattern=r"\.attention\."),
        Rule("rest", INT8, scale=RowPercentile()),
    )
