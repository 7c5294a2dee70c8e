"""What the delta rule's benchmark measures memory by."""

import torch

from ops.delta_rule.bench import peak_tensor_bytes


def test_the_peak_is_of_what_is_held_at_once_without_what_was_there():
    there = torch.ones(1 << 16)

    def once() -> float:
        first = there + 1  # 256 KiB
        second = first + 1  # 512 KiB held
        del first
        third = second[: 1 << 15] * 2  # 384 KiB held
        return float(third[0])

    assert 2 << 18 <= peak_tensor_bytes(once) < (2 << 18) + 4096
