"""Training that carries the state from window to window: what it carries, how it goes on, and on several ranks."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import ROOT, command, tiny

from optim.carry import detached_rows, flat_state, gathered, state_of
from optim.curriculum import Curriculum, CurriculumStage
from optim.schedule import Progress
from recipes.override import overridden
from recipes.packed import open_packed
from recipes.recipe import load_recipe
from recipes.stages import recipe_dataset, sample_packed
from recipes.telling import Teller
from runtime.errors import UserError
from runtime.log import RunLog
from runtime.machine import Machine, leave, start_machine
from train_gpt import build_trainer

ALONE = Machine(peak_flops=1e9, fp32_peak_flops=1e9)
# Slices of sixteen documents: both lanes reach their ends in steps 10 to 12, and begin others at different steps.
MANY = {"train__tokens_per_step": 1024, "model__layers__length": 1}


def trainer_of(machine=ALONE, **changes):
    recipe = overridden(load_recipe("baka"), tiny("baka", **changes))
    return build_trainer(recipe, recipe_dataset(recipe), machine)


def run_to(trainer, step):
    """Trains, and returns the losses."""
    return [trainer._one_step(Progress(n, 0.0, None, None)).loss for n in range(trainer.step, step)]


def carried_run():
    """What each rank of a pair does: thirteen steps, resumed within documents, a checkpoint, a line of what it saw."""
    machine, path = start_machine("fp32"), Path("pair.safetensors")
    first = trainer_of(machine, **MANY)
    losses = run_to(first, 6)
    first.save(path)
    machine.barrier()
    second = trainer_of(machine, **MANY)
    assert second.resume(path)
    losses += run_to(second, 13)
    second.save(path)
    print(json.dumps([machine.rank, losses, second.tokens, sorted(second.carried)]))
    leave(0)


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
    trainer, rows = trainer_of(**MANY), []
    forward = trainer.model
    trainer.forward = lambda x, y, state: rows.append((len(x), state and len(state[0][0]))) or forward(x, y, state)
    run_to(trainer, 12)
    assert any(count < 16 and kept == count for count, kept in rows)
    assert all(kept in (None, count) for count, kept in rows)
    assert sum(kept is None for _, kept in rows) > 2


def test_a_run_tells_the_tokens_that_it_trained_on(workplace):
    """Not those that its slices would hold if no document ended."""
    trainer, seen = trainer_of(**MANY), []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    trainer.clock.start()
    run_to(trainer, 12)
    recipe = overridden(load_recipe("baka"), tiny("baka", **MANY))
    Teller(RunLog(workplace), recipe, ALONE, 3.0).end_of_training(trainer)
    told = json.loads((workplace / "log.jsonl").read_text())
    assert told["tokens"] == trainer.tokens == sum(seen) < 12 * 1024


def test_two_ranks_carry_what_one_does(workplace):
    script = workplace / "pair.py"
    script.write_text("from test_baka_training import carried_run\ncarried_run()\n")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = command(torchrun, workplace, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    assert done.returncode == 0, done.stderr
    alone = trainer_of(**MANY)
    losses = run_to(alone, 13)
    # Each rank has the states of its own lane, and all ranks' are in the checkpoint.
    for line, (rank, paired, tokens, lanes) in enumerate(sorted(map(json.loads, done.stdout.splitlines()))):
        assert (rank, tokens, lanes) == (line, alone.tokens, [line])
        assert paired == pytest.approx(losses, rel=1e-5)
    (expected, _), paired = alone.state(), load_file(workplace / "pair.safetensors")
    carried = {name for name in expected if name.startswith("carried.")}
    assert carried == {name for name in paired if name.startswith("carried.")} and sorted(alone.carried) == [0, 1]
    assert [len(paired[f"carried.{lane}.0.0"]) for lane in (0, 1)] == [16, 4]
    for name in carried:
        torch.testing.assert_close(paired[name], expected[name], rtol=1e-3, atol=1e-4)
    # One rank goes on where two have stopped, in the middle of documents.
    again = trainer_of(**MANY)
    assert again.resume(workplace / "pair.safetensors")
    assert run_to(again, 15) == pytest.approx(run_to(alone, 15), rel=1e-5)


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
        build_trainer(recipe, recipe_dataset(recipe), ALONE)


def test_rows_shorter_than_a_chunk_leave_it_open(workplace):
    trainer = trainer_of(model__window=48)
    run_to(trainer, 2)
    # Two rows of 32 tokens are a chunk and sixteen tokens of the next; its memory is ahead of them.
    assert [state[1][2].shape[1] for state in trainer.carried.values()] == [3 + 16] * 2


def test_without_memory_a_run_goes_through_to_its_score(run_tiny):
    run = run_tiny("baka", "forgetful", train__steps=1, model__layers__length=1, model__memory__num_tokens=0)
    assert 0 < json.loads((run / "score.json").read_text())["val_bpb"] < 10


def test_samples_stream_past_the_window(run_tiny):
    packed = open_packed(run_tiny("baka", "sample", train__steps=1) / "model.bin", Machine())
    # 30 tokens are more than three windows; the likeliest token is the same however the text is read.
    options = {"num_tokens": 30, "temperature": 0.0, "top_k": 1, "seed": 0}
    sampled = sample_packed(packed, "the union", **options)
    assert len(sampled) > len("the union") and sampled == sample_packed(packed, "the union", **options)
