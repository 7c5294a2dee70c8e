"""Scales that all lie in the table of steps (`quantize.steps`), as one byte each: its code.

Such a kind takes a tensor whose scales are exactly those of their codes, and no other; a recipe may list the kind with
fp16 scales too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.kinds import Shapes, join_planes, split_planes
from compress.range_coder import RangeKind
from compress.trellis_kind import TrellisKind
from quantize.grid import Coded
from quantize.steps import log2_step, nearest_step_code


class StepScales:
    """What a kind inherits first to store the codes of its scales."""

    labels = "data", "data", "scales"
    method = "-range-steps"

    def takes(self, tensor: Coded | Tensor) -> bool:
        """Whether a tensor is of this kind."""
        return super().takes(tensor) and torch.equal(log2_step(nearest_step_code(tensor.scale)), tensor.scale)

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of each stream before coding."""
        return super().sizes(shapes)[:-1]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The streams of the integers, and the codes of the scales."""
        *data, high, low = super().pack(tensors)
        return [*data, *split_planes(nearest_step_code(join_planes([high, low], torch.float16)))]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors. Raises UserError for streams that `pack` does not write, and for codes beyond the table."""
        *data, codes = streams
        return super().unpack([*data, *split_planes(log2_step(join_planes([codes], torch.uint8)))], shapes)


@dataclass(frozen=True)
class StepRangeKind(StepScales, RangeKind):
    """Integers of a grid through the range coder, scales as codes of steps."""


@dataclass(frozen=True)
class StepTrellisKind(StepScales, TrellisKind):
    """Integers of a trellis grid through the range coder, scales as codes of steps."""
