"""The training loop from inside: warm-up that leaves no trace, a clock that validation does not move, the compiler."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import VOCAB, tiny

from eval.sliding import plain_windows
from model.flops import training_flops_per_token
from recipes.override import overridden, override_pairs
from recipes.recipe import load_recipe
from recipes.stages import recipe_dataset
from runtime.errors import UserError
from runtime.machine import Machine
from train_gpt import build_trainer, main


@pytest.fixture
def trainer(workplace):
    """A trainer of the #465 stack that has done two steps."""
    recipe = overridden(load_recipe("int5_int6"), tiny(train__steps=2, average__every=1, average__start=2.0))
    trainer = build_trainer(recipe, recipe_dataset(recipe), Machine(peak_flops=1e9))
    trainer.run(lambda _: None, workplace / "checkpoint.safetensors")
    return trainer


def copied(trainer):
    tensors, facts = trainer.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(facts))


def test_compile_warm_up_restores_weights_optimisers_average_and_loader(trainer):
    before, facts = copied(trainer)
    moved = []
    trainer.forward = lambda x, y: moved.append(1) or trainer.model(x, y)
    trainer.warm_up(3)
    after, facts_after = copied(trainer)
    assert len(moved) == 3 * trainer.config.num_slices
    assert facts == facts_after and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_warm_up_before_the_first_step_leaves_empty_optimisers(workplace):
    recipe = overridden(load_recipe("demo"), tiny())
    trainer = build_trainer(recipe, recipe_dataset(recipe), Machine(peak_flops=1e9))
    before, _ = copied(trainer)
    trainer.warm_up(2)
    after, _ = copied(trainer)
    assert before.keys() == after.keys() and not any(name.startswith("optim.") for name in after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_budget_in_model_flops_is_that_many_steps_bit_for_bit(run_tiny, monkeypatch):
    by_steps = run_tiny("demo", "steps", train__steps=3)
    events = [json.loads(line) for line in (by_steps / "log.jsonl").read_text().splitlines()]
    (flops,) = (event["model_flops"] for event in events if event["event"] == "trained")
    assert flops == 3 * 256 * training_flops_per_token(load_recipe("demo", tiny()).model, 32)
    pairs = dict(override_pairs(tiny()))
    shape = [f"--{path}={text}" for path, text in pairs.items() if path not in ("train.steps", "train.seconds")]
    monkeypatch.setenv("RUN_ID", "flops")
    assert main(["demo", *shape, f"--train.flops={flops * 1.3}"]) == 0
    by_flops = by_steps.with_name("flops")
    checkpoints = [load_file(run / "checkpoint.safetensors") for run in (by_steps, by_flops)]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    assert all(torch.equal(checkpoints[0][name], checkpoints[1][name]) for name in checkpoints[0])
    assert json.loads((by_flops / "recipe.json").read_text())["train_seconds_cap"] is None


class FakeTime:
    """A clock that moves a tenth of a second whenever it is looked at."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 0.1
        return self.now


@pytest.fixture
def fake_time(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr("runtime.clock.time", fake)
    return fake


def trained_seconds(run):
    facts = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return facts, next(fact["train_seconds"] for fact in facts if fact["event"] == "trained")


def test_validation_stops_the_clock(run_tiny, fake_time, monkeypatch):
    def slow_windows(*sizes):
        fake_time.now += 1000
        return plain_windows(*sizes)

    monkeypatch.setattr("recipes.stages.plain_windows", slow_windows)
    facts, seconds = trained_seconds(run_tiny("demo", "clock", train__validate_every=2))
    validations = [fact["step"] for fact in facts if fact["event"] == "validation" and fact["weights"] == "training"]
    assert validations == [2, 4, 6, 8, 10]
    assert seconds < 100


def test_training_with_a_time_budget_ends_within_it(run_tiny, fake_time):
    run = run_tiny("demo", "time", train__steps=10_000, train__seconds=10.0, train__log_every=1000)
    _, seconds = trained_seconds(run)
    assert 9.0 < seconds <= 10.0
    assert "stopping_early: wallclock_cap train_time:" in (run / "train.log").read_text()


def test_a_trainer_refuses_a_checkpoint_of_another_recipe(trainer, workplace):
    recipe = overridden(load_recipe("int5_int6"), tiny(train__seed=4))
    other = build_trainer(recipe, recipe_dataset(recipe), Machine(peak_flops=1e9))
    with pytest.raises(UserError, match="of another recipe or other overrides"):
        other.resume(workplace / "checkpoint.safetensors")


def test_the_model_compiles_as_one_graph():
    """What CUDA runs: torch.compile of the whole model, forward and backward, equal to eager."""
    config = overridden(load_recipe("int5_int6"), tiny(model__layers__length=1)).model
    eager, compiled = (config.build().reset_parameters(0) for _ in range(2))
    tokens = torch.randint(0, VOCAB, (2, 17))
    for forward in (eager, torch.compile(compiled, fullgraph=True)):
        forward(tokens[:, :-1], tokens[:, 1:])[0].mean().backward()
    for (name, one), other in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
