"""Bad input: one clear line with the rule, the value and the nearest right one, exit code 2, no file touched."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from tiny_runs import ROOT, VOCAB, command, tiny

from compress.container import pack, unpack
from data.shards import write_shard
from recipes.packed import open_packed
from recipes.run_folder import RunFolder
from recipes.stages import compress_run, quantize_run
from runtime.checkpoint import load_checkpoint, save_checkpoint
from runtime.errors import UserError
from runtime.files import write_text
from runtime.log import RunLog
from runtime.machine import Machine
from train_gpt import main

TRAIN = str(ROOT / "train_gpt.py")


@pytest.fixture
def data_copy(workplace, tiny_data, monkeypatch):
    """A data set of one's own to break."""
    folder = workplace / "broken"
    shutil.copytree(tiny_data, folder)
    monkeypatch.setenv("DATA_PATH", str(folder))
    monkeypatch.setenv("RUN_ID", "bad")
    return folder


def refused(recipe="demo", **changes) -> str:
    """The one line with which train_gpt.py refuses to run."""
    with pytest.raises(UserError) as error:
        main([recipe, *tiny(recipe, **changes)])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_mistake_is_one_line_and_exit_code_two(workplace):
    result = command([TRAIN, "demo", "--train.sed", "3"], workplace)
    assert result.returncode == 2
    assert result.stderr == ("error: unknown override --train.sed; nearest: train.seed, train.seconds, train.steps\n")
    assert not (workplace / "runs").exists()
    assert command([TRAIN], workplace).returncode == 2


@pytest.mark.parametrize("module", ["quantize", "compress", "eval"])
def test_a_stage_without_its_input_names_what_is_missing(module, workplace):
    result = command(["-m", module, "runs/nothing"], workplace)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "runs/nothing" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_missing_data_names_the_command_that_makes_it(workplace, monkeypatch):
    monkeypatch.setenv("DATA_PATH", "data/datasets/sotu_sp512")
    monkeypatch.setenv("RUN_ID", "bad")
    assert refused(model__vocab_size=512) == (
        "the data set data/datasets/sotu_sp512 does not exist; make it: "
        "python -m data build --corpus sotu --vocab 512 --out data/datasets/sotu_sp512"
    )


def test_missing_shard(data_copy):
    for path in data_copy.glob("*_train_*.bin"):
        path.unlink()
    assert "_train_" in refused() and not (data_copy.parent / "runs").exists()


def test_truncated_shard(data_copy):
    path = next(data_copy.glob("*_train_*.bin"))
    path.write_bytes(path.read_bytes()[:-2])
    message = refused()
    assert path.name in message and str(path.stat().st_size) in message


def test_foreign_shard(data_copy):
    path = next(data_copy.glob("*_val_*.bin"))
    path.write_bytes(b"not a shard" * 1000)
    assert path.name in refused()


def test_vocabulary_that_is_not_the_tokenizers(data_copy):
    message = refused(model__vocab_size=300)
    assert "300" in message and f"nearest {VOCAB}" in message


def test_ids_beyond_the_vocabulary(data_copy):
    path = next(data_copy.glob("*_val_*.bin"))
    write_shard(path, np.array([1, 5, VOCAB, 7] * 200))
    message = refused()
    assert str(VOCAB) in message and path.name in message and "2" in message


def test_validation_split_shorter_than_a_window(data_copy):
    write_shard(next(data_copy.glob("*_val_*.bin")), np.arange(20))
    assert "at least one window of 32 targets, got 19; nearest window 19" in refused()


def test_batch_that_does_not_divide(data_copy):
    assert refused(train__tokens_per_step=100) == (
        "tokens a step must be a multiple of slices x window = 2 x 32 = 64, got 100; nearest 128"
    )


def test_world_size_that_does_not_divide_the_accumulation(data_copy, monkeypatch):
    monkeypatch.setattr("train_gpt.start_machine", lambda _: Machine(world_size=3, peak_flops=1.0))
    assert refused() == "the ranks must divide the slices of a step: 3 ranks, 2 slices; nearest number of ranks 2"


def test_run_folder_of_another_recipe_is_left_alone(run_tiny, workplace):
    run = run_tiny("demo", "mine")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert refused("baseline").startswith("runs/mine is a run of demo ")
    assert refused("demo", train__seed=5).endswith("give this run another RUN_ID")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_checkpoint_of_another_recipe(run_tiny):
    run = run_tiny("demo", "mine")
    tensors, facts = load_checkpoint(run / "checkpoint.safetensors")
    save_checkpoint(run / "checkpoint.safetensors", tensors, {**facts, "identity": "0" * 16})
    assert "of another recipe or other overrides (fingerprint 0000000000000000" in refused("demo")


def test_checkpoint_that_is_none(run_tiny):
    run = run_tiny("demo", "mine")
    (run / "checkpoint.safetensors").write_bytes(b"garbage")
    assert "is no checkpoint of this pipeline" in refused("demo")


@pytest.mark.parametrize("damage", ["flip", "cut", "extend", "empty", "foreign"])
def test_damaged_model(run_tiny, damage):
    path = run_tiny("demo", "mine") / "model.bin"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    broken = {"flip": bytes(data), "cut": data[:-1], "extend": data + b"\0", "empty": b"", "foreign": b"PK\3\4" * 99}
    path.write_bytes(broken[damage])
    with pytest.raises(UserError) as error:
        open_packed(path, Machine())
    assert "\n" not in str(error.value)


def test_model_of_a_recipe_that_has_changed(run_tiny):
    run = run_tiny("demo", "mine")
    config, codes = unpack((run / "model.bin").read_bytes())
    (run / "model.bin").write_bytes(pack(codes, config={**config, "model": "0" * 16}))
    with pytest.raises(UserError, match="another version of recipe 'demo'"):
        open_packed(run / "model.bin", Machine())


def test_model_whose_header_names_a_smaller_model(run_tiny):
    run = run_tiny("demo", "mine")
    config, codes = unpack((run / "model.bin").read_bytes())
    del codes["skip_weights"]
    (run / "model.bin").write_bytes(pack(codes, config=config))
    with pytest.raises(UserError, match="skip_weights"):
        open_packed(run / "model.bin", Machine())


def test_model_of_another_tokenizer(run_tiny):
    run = run_tiny("demo", "mine")
    config, codes = unpack((run / "model.bin").read_bytes())
    (run / "model.bin").write_bytes(pack(codes, config={**config, "tokenizer": "f" * 64}))
    result = command(["-m", "eval", str(run)], run)
    assert result.returncode == 2
    assert "tokens of another tokenizer" in result.stderr and "ffffffffffffffff" in result.stderr


def test_over_budget_names_the_largest_entries(run_tiny):
    run = run_tiny("demo", "mine")
    before = (run / "score.json").read_bytes()
    facts = json.loads((run / "recipe.json").read_text())
    small = [*facts["overrides"], "--pack.budget", "1000"]
    (run / "recipe.json").write_text(json.dumps({**facts, "overrides": small}))
    with pytest.raises(UserError, match="another version of recipe"):
        compress_run(RunFolder(run))
    assert (run / "score.json").read_bytes() == before


def test_a_budget_that_is_too_small_stops_the_run(workplace, monkeypatch):
    monkeypatch.setenv("RUN_ID", "large")
    message = refused("demo", pack__budget=1000)
    assert message.startswith("a submission must take at most 1,000 bytes, got ") and "largest: " in message


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "precious.json"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space left on device; what was there before is untouched"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["precious.json"]


def test_a_full_disk_during_a_stage_keeps_the_run(run_tiny, monkeypatch):
    run = run_tiny("demo", "mine")
    before = (run / "codes.safetensors").read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="cannot write .*codes.safetensors: No space left on device"):
        quantize_run(RunFolder(run))
    assert (run / "codes.safetensors").read_bytes() == before


def test_a_full_disk_under_the_log_is_said_in_a_line(tmp_path):
    log = RunLog(tmp_path)
    log._text.close()
    log._text = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        log.line("something")


def test_no_write_permission(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(UserError, match="cannot write .*; what was there before is untouched"):
        write_text(tmp_path / "file" / "below.json", "text")

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(UserError, match="Permission denied"):
        write_text(tmp_path / "new.json", "text")
    with pytest.raises(UserError, match="Permission denied"):
        RunLog(tmp_path / "run")
