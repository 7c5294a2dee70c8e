"""Optimisers, schedules and averages against their formulas."""

import math

import pytest
import torch
from torch import nn

from ops.newton_schulz.reference import newton_schulz_reference
from optim.average import EMAConfig, SWAConfig
from optim.groups import OptimConfig, Optimizers, accumulation_steps, route
from optim.muon import Muon
from optim.schedule import Progress, WarmdownFraction, WarmdownSteps, WarmupCosine
from optim.trainer import TrainConfig
from recipes.packed import parameter_shapes
from recipes.recipe import load_recipe
from runtime.errors import UserError
from runtime.machine import Machine


@pytest.mark.parametrize("shape", [(12, 6), (6, 12)])
def test_muon_follows_its_formula(shape):
    parameter = nn.Parameter(torch.randn(shape))
    muon = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.05, machine=Machine())
    expected, buffer = parameter.detach().clone(), torch.zeros(shape)
    for seed in range(3):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        parameter.grad = gradient.clone()
        muon.step()
        buffer = 0.9 * buffer + gradient
        update = newton_schulz_reference(gradient + 0.9 * buffer)
        expected = expected * (1 - 0.1 * 0.05) - 0.1 * math.sqrt(max(1, shape[0] / shape[1])) * update
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


class _Share(Machine):
    """One of several ranks without a network: what the others would send is what this rank computes of their share."""

    def gather(self, shard):
        object.__setattr__(self, "sent", shard)
        return torch.cat([shard] * self.world_size)


def test_muon_ranks_share_out_a_stack():
    gradients = [torch.randn(4, 4) for _ in range(3)]
    shares = []
    for rank in range(2):
        machine = _Share(rank=rank, world_size=2)
        parameters = [nn.Parameter(torch.zeros(4, 4)) for _ in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        Muon(parameters, lr=1.0, momentum=0.0, weight_decay=0.0, machine=machine).step()
        shares.append(machine.sent)
    whole = torch.cat(shares)
    assert [share.shape[0] for share in shares] == [2, 2]
    for gradient, update in zip(gradients, whole, strict=False):
        torch.testing.assert_close(update, newton_schulz_reference(gradient), rtol=1e-4, atol=1e-5)
    assert not whole[3].any()


def test_every_parameter_of_every_group_is_routed_as_published():
    groups = {}
    for name, shape in parameter_shapes(load_recipe("int5_int6").model).items():
        groups.setdefault(route(name), {})[name] = math.prod(shape)
    assert sum(groups["embedding"].values()) == 524_288 + 524_288
    assert sum(groups["matrix"].values()) == 10 * 2_359_296 + 65_536
    assert sum(groups["scalar"].values()) == 1 + 512 + 10 * 2_056 + 5 * 512


def test_the_group_table_names_each_group_with_its_size():
    model = load_recipe("demo").model.build()
    table = Optimizers(model, OptimConfig(matrix_lr=0.123), Machine()).routes_table()
    assert "matrix     Muon        0.123" in table
    assert f"{sum(p.numel() for n, p in model.named_parameters() if route(n) == 'scalar'):,}" in table


def test_clipping_scales_to_the_global_norm():
    model = load_recipe("demo").model.build().reset_parameters(0)
    optimizers = Optimizers(model, OptimConfig(grad_clip=0.3), Machine())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    norm = optimizers.clip()
    total = math.sqrt(sum(p.numel() for p in model.parameters()))
    assert norm.item() == pytest.approx(total, rel=1e-4)
    after = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    assert after == pytest.approx(0.3, rel=1e-3)


def test_optimizer_state_round_trips():
    def stepped(optimizers, model, seed):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        optimizers.step(seed, 1.0)

    model = load_recipe("demo").model.build().reset_parameters(0)
    optimizers = Optimizers(model, OptimConfig(), Machine())
    stepped(optimizers, model, 1)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in optimizers.state_dict().items()}
    stepped(optimizers, model, 2)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    fresh = load_recipe("demo").model.build()
    fresh.load_state_dict(weights, strict=False)
    resumed = Optimizers(fresh, OptimConfig(), Machine())
    resumed.load_state_dict(state)
    stepped(resumed, fresh, 2)
    assert all(torch.equal(p, expected[name]) for name, p in fresh.named_parameters())


def test_warmdown_by_steps_follows_the_clock():
    warmdown = WarmdownSteps(100)
    assert warmdown.multiplier(Progress(0, 0.0, 1000, None)) == 1.0
    assert warmdown.multiplier(Progress(950, 0.0, 1000, None)) == 0.5
    # 500 steps in 50 s: a step takes 0.1 s, the warm-down 10 s, and 5 s are left.
    assert warmdown.multiplier(Progress(500, 50.0, 20_000, 55.0)) == pytest.approx(0.5)
    assert warmdown.multiplier(Progress(500, 55.0, 20_000, 55.0)) == 0.0


def test_warmdown_by_fraction():
    warmdown = WarmdownFraction(0.4)
    assert warmdown.multiplier(Progress(30, 0.0, 100, None)) == 1.0
    assert warmdown.multiplier(Progress(80, 0.0, 100, None)) == pytest.approx(0.5)
    assert warmdown.multiplier(Progress(1, 90.0, 20_000, 100.0)) == pytest.approx(0.25)


def test_a_run_ends_with_whichever_budget_ends_first():
    assert Progress(10, 0.0, 10, None).finished
    assert Progress(1, 60.0, 10, 60.0).finished
    assert not Progress(9, 45.0, 10, 60.0).finished


def test_a_step_that_would_end_beyond_the_cap_is_not_begun():
    assert not Progress(10, 50.0, None, 60.0).finished
    assert Progress(10, 50.0, None, 54.0).finished  # an average step takes 5 s
    assert Progress(10, 50.0, None, 60.0, last_step=11.0).finished


def test_swa_is_the_mean_of_its_snapshots():
    weights = {"w": torch.zeros(3)}
    average = SWAConfig(every=2, start=0.5).build(weights)
    for step in range(1, 9):
        weights["w"] = torch.full((3,), float(step))
        average.update(weights, step, multiplier=1.0 if step < 4 else 0.4)
    assert average.count == 3  # steps 4, 6 and 8
    assert average.averaged(weights)["w"].tolist() == [6.0] * 3


def test_swa_without_snapshots_is_the_last_weights():
    weights = {"w": torch.ones(2)}
    assert SWAConfig().build(weights).averaged(weights)["w"].tolist() == [1.0, 1.0]


def test_ema_follows_its_formula_and_keeps_fp32():
    weights = {"w": torch.zeros(1)}
    average = EMAConfig(decay=0.5).build(weights)
    shadow = 0.0
    for step in range(1, 12):
        weights["w"] = torch.tensor([float(step)])
        average.update(weights, step, 1.0)
        decay = min(0.5, step / (9 + step))
        shadow = decay * shadow + (1 - decay) * step
    assert average.averaged(weights)["w"].item() == pytest.approx(shadow, rel=1e-6)
    assert average.averaged(weights)["w"].dtype == torch.float32


@pytest.mark.parametrize("ranks, steps", [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_accumulation_keeps_the_global_batch(ranks, steps):
    assert accumulation_steps(8, ranks) == steps


def test_sizes_that_do_not_divide_name_the_nearest():
    with pytest.raises(UserError, match=r"3 ranks, 8 slices; nearest number of ranks (2|4)"):
        accumulation_steps(8, 3)
    config = TrainConfig(tokens_per_step=500_000, window=2048, num_slices=8)
    with pytest.raises(UserError, match=r"slices x window = 8 x 2048 = 16384, got 500000; nearest 507904"):
        config.check(1)
    with pytest.raises(UserError, match="both none"):
        TrainConfig(seconds=None, steps=None).check(1)


def test_adamw_may_move_the_matrices_too():
    model = load_recipe("demo").model.build().reset_parameters(0)
    optimizers = Optimizers(
        model, OptimConfig(matrix_optimizer="adamw", matrix_lr=0.01, adam_weight_decay=0.1), Machine()
    )
    assert "Muon" not in optimizers.routes_table()
    name, matrix = "layers.0.mlp.up.weight", model.layers[0].mlp.up.weight
    before = matrix.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizers.step(0, 1.0)
    # The first step of Adam is the sign of the gradient.
    torch.testing.assert_close(matrix.detach(), before * (1 - 0.01 * 0.1) - 0.01)
    assert route(name) == "matrix" and f"{name}:exp_avg" in optimizers.state_dict()


def test_time_constants_do_not_decay():
    mixer = nn.Module()
    mixer.decay_log = nn.Parameter(torch.ones(3))
    mixer.gain = nn.Parameter(torch.ones(3))
    model = nn.ModuleDict({"mixer": mixer})
    optimizers = Optimizers(
        model, OptimConfig(matrix_optimizer="adamw", adam_weight_decay=0.5, scalar_lr=0.1), Machine()
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros(3)
    optimizers.step(0, 1.0)
    assert mixer.decay_log.tolist() == [1.0] * 3 and mixer.gain.tolist() == pytest.approx([0.95] * 3)


def test_a_cosine_warms_up_and_never_rises_again():
    schedule = WarmupCosine(warmup_steps=10, floor=0.1)
    rates = [schedule.multiplier(Progress(step, 0.0, 200, None)) for step in range(200)]
    assert rates[:3] == [0.1, 0.2, pytest.approx(0.3)]
    peak = rates.index(max(rates))
    assert peak <= 10 and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
