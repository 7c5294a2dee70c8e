"""Short windows first, done right: what went wrong where this was first tried is a test each."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_runs import tiny

from optim.curriculum import Curriculum, CurriculumStage
from optim.schedule import Progress, WarmupCosine
from optim.trainer import TrainConfig
from recipes.override import overridden
from recipes.recipe import load_recipe
from recipes.stages import open_validation, recipe_dataset
from runtime.errors import UserError
from runtime.machine import Machine
from train_gpt import build_trainer, train

THREE = Curriculum((CurriculumStage(8, 1000), CurriculumStage(16, 2000)))


@pytest.fixture
def trainer(workplace):
    """Six steps of 256 tokens: one stage of 500 tokens in rows of 8, one until 1,000 in rows of 16, then rows of 32."""

    def build():
        recipe = overridden(load_recipe("int5_int6"), tiny(train__steps=6))
        stages = (CurriculumStage(8, 500), CurriculumStage(16, 1000))
        recipe = replace(recipe, train=replace(recipe.train, curriculum=Curriculum(stages)))
        built = build_trainer(recipe, recipe_dataset(recipe), Machine(peak_flops=1e9))
        built.seen = []
        built.forward = lambda x, y: built.seen.append(x) or built.model(x, y)
        return built

    return build


def test_training_goes_through_the_stages_by_tokens(trainer, workplace):
    """The original counted the tokens of its longest rows, whichever it trained on."""
    run = trainer()
    run.run(lambda _: None, workplace / "checkpoint.safetensors")
    assert [x.shape[1] for x in run.seen[::2]] == [8, 8, 16, 16, 32, 32]
    assert {x.numel() for x in run.seen} == {128}
    assert run.loader.state_dict()["tokens"] == 6 * 256


def test_a_run_goes_on_in_the_middle_of_a_stage(trainer, workplace):
    """The original began the epoch anew."""
    whole, path = trainer(), workplace / "checkpoint.safetensors"
    whole.run(lambda _: None, path)
    first = trainer()
    first.run(lambda report: first.save(path) if report.step == 3 else None, workplace / "other.safetensors")
    second = trainer()
    assert second.resume(path)
    second.run(lambda _: None, path)
    rest = whole.seen[6:]
    assert len(second.seen) == len(rest) == 6
    assert all(torch.equal(x, y) for x, y in zip(second.seen, rest, strict=True))
    assert all(torch.equal(second.weights[name], whole.weights[name]) for name in whole.weights)


class Silence:
    """Listens to a run and says nothing."""

    def __getattr__(self, name):
        return lambda *told: None


def test_validation_is_at_the_final_window_in_every_stage(workplace):
    """The original compared losses at the length of the moment, and a short one is the worse for it."""
    recipe = overridden(load_recipe("imli_b"), tiny("imli_b", train__steps=6, train__validate_every=2))
    dataset = recipe_dataset(recipe)
    trainer = build_trainer(recipe, dataset, Machine(peak_flops=1e9))
    trained, validated = [], []
    trainer.model.register_forward_pre_hook(
        lambda _, inputs: (validated if torch.is_inference_mode_enabled() else trained).append(inputs[0].shape[1])
    )
    assert train(recipe, trainer, open_validation(dataset), workplace / "checkpoint.safetensors", Silence())
    assert trained[::2] == [8, 8, 16, 16, 32, 32]
    assert len(validated) >= 4 and set(validated) == {32}


def test_rows_are_the_same_tokens_in_the_same_order():
    batch = torch.arange(64).view(2, 32)
    assert [THREE.rows(batch, tokens).shape for tokens in (0, 1000, 2000)] == [(8, 8), (4, 16), (2, 32)]
    assert all(torch.equal(THREE.rows(batch, tokens).flatten(), batch.flatten()) for tokens in (0, 1000, 2000))


def test_every_step_has_the_same_number_of_tokens():
    """The original kept the number of rows, so its steps grew four times larger."""
    batch = torch.zeros(4, 32)
    assert {THREE.rows(batch, tokens).numel() for tokens in range(0, 3000, 100)} == {128}


def test_the_learning_rate_falls_across_the_stages():
    """The original counted its steps anew from each loader, so the cosine jumped and in the end rose."""
    schedule = WarmupCosine(warmup_steps=5, floor=0.0)
    rates = [schedule.multiplier(Progress(step, 0.0, 40, None)) for step in range(40)]
    assert all(later <= earlier for earlier, later in pairwise(rates[5:]))


@pytest.mark.parametrize(
    "stages, message",
    [
        ([(12, 100)], "must divide the training window = 32, got 12; nearest 8"),
        ([(64, 100)], "got 64; nearest 32"),
        ([(8, 200), (16, 100)], r"ends at \[200, 100\] tokens; nearest \[100, 200\]"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, message):
    curriculum = Curriculum(tuple(CurriculumStage(*stage) for stage in stages))
    with pytest.raises(UserError, match=message):
        TrainConfig(window=32, tokens_per_step=256, curriculum=curriculum).check(1)
