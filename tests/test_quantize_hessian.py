"""Second moments of inputs: equal to X^T X / N, shared where the input is, summed over ranks."""

import pytest
import torch
from torch import nn

from quantize.hessian import InputMoments
from runtime.errors import UserError
from runtime.machine import Machine


class Block(nn.Module):
    """Two matrices with one input, a third with another."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.project = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.query(x) * self.key(x))


class TwoAlikeRanks(Machine):
    """A machine on which the other rank saw the same."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.mul_(2)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block()


def collected(block, batches, machine):
    with InputMoments({f"{name}.weight": getattr(block, name) for name in ("query", "key", "project")}) as moments:
        for x in batches:
            moments.add("head", block(x))
    return moments.finish(machine)


def test_moments_are_the_mean_outer_products_of_the_inputs(block):
    batches = [gaussian(2, 3, 6), gaussian(4, 6, seed=1)]
    hessians = collected(block, batches, Machine())
    rows = torch.cat([x.reshape(-1, 6) for x in batches]).double()
    inner = block.query(rows.float()) * block.key(rows.float())
    inner, last = inner.double(), block.project(inner).double()
    assert list(hessians) == ["head", "key.weight", "project.weight", "query.weight"]
    for name, x in (("query.weight", rows), ("key.weight", rows), ("project.weight", inner), ("head", last)):
        torch.testing.assert_close(hessians[name].double(), x.T @ x / 10, rtol=1e-5, atol=1e-6)
        assert not hessians[name].requires_grad


def test_matrices_with_one_input_share_one_moment(block):
    hessians = collected(block, [gaussian(4, 6)], Machine())
    assert hessians["query.weight"] is hessians["key.weight"]
    assert len({id(hessian) for hessian in hessians.values()}) == 3


def test_half_precision_inputs_are_summed_in_fp32():
    with InputMoments({}) as moments:
        for _ in range(40):
            moments.add("head", torch.full((512, 1), 1.01, dtype=torch.bfloat16))
    hessian = moments.finish(Machine())["head"]
    assert hessian.dtype == torch.float32
    assert hessian.item() == pytest.approx(1.0078125**2, rel=1e-5)


def test_ranks_are_added_up_and_divided_by_all_their_tokens(block):
    alone, together = (collected(block, [gaussian(4, 6)], machine) for machine in (Machine(), TwoAlikeRanks()))
    for name, hessian in alone.items():
        torch.testing.assert_close(together[name], hessian)


def test_hooks_are_gone_afterwards(block):
    hessians = collected(block, [gaussian(4, 6)], Machine())
    before = hessians["query.weight"].clone()
    block(gaussian(4, 6, seed=2))
    assert torch.equal(hessians["query.weight"], before)
    assert not block.query._forward_pre_hooks


def test_a_matrix_that_saw_nothing_is_named(block):
    with InputMoments({"query.weight": block.query, "key.weight": block.key}) as moments:
        block.query(gaussian(4, 6))
    with pytest.raises(UserError, match=r"every matrix must be shown an input, key.weight was not"):
        moments.finish(Machine())


def test_inputs_that_are_shared_only_sometimes_are_refused(block):
    with InputMoments({"query.weight": block.query, "key.weight": block.key}):
        block(gaussian(4, 6))
        with pytest.raises(UserError, match="key.weight first had those of query.weight, now those of key.weight"):
            block.key(gaussian(4, 6, seed=1))
