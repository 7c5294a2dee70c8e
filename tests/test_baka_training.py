"""Training that carries the state from window to window: what it carries, how it goes on, and on several ranks."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_runs import tiny

from optim.carry import detached_rows, flat_state, gathered, state_of
from optim.curriculum import Curriculum, CurriculumStage
from optim.schedule import Progress
from recipes.override import overridden
from recipes.packed import open_packed
from recipes.recipe import load_recipe
from recipes.stages import recipe_dataset, sample_packed
from runtime.errors import UserError
from runtime.machine import Machine
from train_gpt import build_trainer


def trainer_of(**changes):
    recipe = overridden(load_recipe("baka"), tiny("baka", **changes))
    return build_trainer(recipe, recipe_dataset(recipe), Machine(peak_flops=1e9))


def run_to(trainer, step):
    while trainer.step < step:
        trainer._one_step(Progress(trainer.step, 0.0, None, None))


def test_a_slice_goes_on_with_the_state_of_its_lane(workplace):
    trainer, seen = trainer_of(optim__matrix_lr=0, optim__embedding_lr=0, optim__scalar_lr=0), []
    model = trainer.model
    trainer.forward = lambda x, y, state: seen.append((x, state)) or model(x, y, state)
    run_to(trainer, 3)
    lanes = [seen[0::2], seen[1::2]]
    for (x0, none), (x1, state), (x2, later) in lanes:
        assert none is None and not any(part.requires_grad for part in flat_state(state, "").values())
        # Weights stand still, so the carried states are those of the rows read at once.
        kept = len(x2)
        _, after = model(torch.cat((x0[:kept], x1[:kept]), dim=1), torch.cat((x0[:kept], x1[:kept]), dim=1))
        for one, other in zip(flat_state(later, "").values(), flat_state(after, "").values(), strict=True):
            torch.testing.assert_close(one, other)


def test_rows_that_end_leave_the_state(workplace):
    trainer, rows = trainer_of(train__tokens_per_step=1024, model__layers__length=1), []
    forward = trainer.model
    trainer.forward = lambda x, y, state: rows.append((len(x), state and len(state[0][0]))) or forward(x, y, state)
    run_to(trainer, 12)
    assert any(count < 16 and kept == count for count, kept in rows)
    assert all(kept in (None, count) for count, kept in rows)
    assert sum(kept is None for _, kept in rows) > 2


def test_a_run_that_stops_between_windows_goes_on_to_the_same_bits(workplace):
    whole, first, second = trainer_of(), trainer_of(), trainer_of()
    run_to(whole, 5)
    run_to(first, 2)
    first.save(workplace / "checkpoint.safetensors")
    assert second.resume(workplace / "checkpoint.safetensors") and set(second.carried) == {0, 1}
    run_to(second, 5)
    (tensors, _), (expected, _) = second.state(), whole.state()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    second.carried.clear()
    assert not any(name.startswith("carried.") for name in second.state()[0])


def test_states_survive_being_flat():
    state = ((torch.rand(3, 2), torch.arange(3)), (torch.empty(3, 0, 4), torch.rand(3, 1, 4)))
    flat = flat_state(state, "11")
    assert list(flat) == ["11.0.0", "11.0.1", "11.1.0", "11.1.1"]
    again = state_of(flat, "11", torch.device("cpu"))
    assert all(torch.equal(one, two) for a, b in zip(state, again, strict=True) for one, two in zip(a, b, strict=True))
    assert [part.shape[0] for part in flat_state(detached_rows(state, 2), "").values()] == [2] * 4


class ThreadedMachine(Machine):
    """A rank that is a thread: what all of them gather meets in one list."""

    def meet(self, shards, barrier):
        object.__setattr__(self, "shards", shards)
        object.__setattr__(self, "barrier_of_threads", barrier)
        return self

    def gather(self, shard):
        self.shards[self.rank] = shard
        self.barrier_of_threads.wait(timeout=20)
        whole = torch.cat(self.shards)
        self.barrier_of_threads.wait(timeout=20)
        return whole


def test_every_rank_saves_the_states_of_all():
    own = [{"0.0": torch.rand(3, 2), "0.1": torch.arange(3)}, {"1.0": torch.rand(5, 1, 7).bfloat16()}, {}]
    shards, barrier = [None] * 3, threading.Barrier(3)
    machines = [ThreadedMachine(rank=rank, world_size=3).meet(shards, barrier) for rank in range(3)]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(gathered, own, machines))
    expected = own[0] | own[1]
    for result in results:
        assert result.keys() == expected.keys()
        assert all(torch.equal(result[name], expected[name]) for name in expected)
    assert gathered(own[0], Machine()) is own[0]


def test_documents_take_no_curriculum(workplace):
    recipe = overridden(load_recipe("baka"), tiny("baka"))
    object.__setattr__(recipe.train, "curriculum", Curriculum((CurriculumStage(8, 100),)))
    with pytest.raises(UserError, match="rows of one length, got a curriculum; nearest none"):
        build_trainer(recipe, recipe_dataset(recipe), Machine(peak_flops=1e9))


def test_samples_stream_past_the_window(run_tiny):
    packed = open_packed(run_tiny("baka", "sample", train__steps=1) / "model.bin", Machine())
    # 30 tokens are more than three windows; the likeliest token is the same however the text is read.
    options = {"num_tokens": 30, "temperature": 0.0, "top_k": 1, "seed": 0}
    sampled = sample_packed(packed, "the union", **options)
    assert len(sampled) > len("the union") and sampled == sample_packed(packed, "the union", **options)
