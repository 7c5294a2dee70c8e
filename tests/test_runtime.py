"""The machine, its clock, its log, its files and what it says of its own source."""

import hashlib
import json
import os
import signal

import pytest
import torch

from benchmarks.row import Row, median_row, rows_table
from runtime.checkpoint import checkpoint_facts, load_checkpoint, prefixed, save_checkpoint, with_prefix
from runtime.clock import TrainingClock
from runtime.command import exit_code_of
from runtime.errors import UserError
from runtime.files import atomic_writer, read_bytes, sha256_of
from runtime.log import RunLog
from runtime.machine import Machine, dtype_name, start_machine
from runtime.peak import matmul_peak
from runtime.signals import TerminationRequest
from runtime.source import repository_root, source_hash, source_sizes


def test_collectives_are_the_identity_on_one_rank():
    machine, tensor = Machine(), torch.arange(3.0)
    assert machine.sum_(tensor) is tensor and machine.max_(tensor) is tensor and machine.gather(tensor) is tensor
    machine.barrier()


def test_the_machine_measures_and_obeys(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    machine = start_machine("bf16")
    assert machine.compute_dtype is torch.bfloat16 and dtype_name(machine.compute_dtype) == "bf16"
    assert machine.is_main and machine.peak_flops > 1e8 and machine.fp32_peak_flops > 1e8
    assert machine.peak_memory_bytes() > 2**20


def test_the_hardware_says_how_many_cores_compute(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert Machine().hardware.startswith("2 of 8 CPU cores (")
    assert Machine(world_size=4).hardware.startswith("8 of 8 CPU cores (")


def test_the_compute_dtype_is_the_faster_one(monkeypatch):
    def rates(bf16, fp32):
        monkeypatch.setattr("runtime.machine.matmul_peak", lambda _, dtype: bf16 if dtype is torch.bfloat16 else fp32)
        machine = start_machine()
        assert (machine.peak_flops, machine.fp32_peak_flops) == (bf16, fp32)
        return machine.compute_dtype

    if torch.cuda.is_available():
        assert rates(1.0, 9.0) is torch.bfloat16
    else:
        assert rates(240e9, 57e9) is torch.bfloat16
        assert rates(150e9, 270e9) is torch.float32
        assert rates(100e9, 100e9) is torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in bf16 whatever it reads")
@pytest.mark.parametrize(
    "bf16, fp32, chosen",
    [
        ([200e9, 400e9, 390e9], [180e9, 170e9, 175e9], torch.bfloat16),
        ([150e9, 140e9, 150e9], [140e9, 140e9, 270e9], torch.float32),
    ],
)
def test_one_bad_reading_does_not_choose_the_compute_dtype(monkeypatch, bf16, fp32, chosen):
    readings = {torch.bfloat16: list(bf16), torch.float32: list(fp32)}
    monkeypatch.setattr("runtime.machine.matmul_peak", lambda _, dtype: readings[dtype].pop(0))
    machine = start_machine()
    assert (machine.compute_dtype, machine.peak_flops, machine.fp32_peak_flops) == (chosen, max(bf16), max(fp32))


def test_peak_counts_two_operations_a_product(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    assert matmul_peak(torch.device("cpu"), torch.float32, size=10) == 2000.0


def test_the_clock_stands_still_while_paused(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = TrainingClock(Machine(), elapsed=5.0)
    assert clock.seconds() == 5.0
    clock.start()
    now[0] += 2
    clock.pause()
    now[0] += 50
    assert clock.seconds() == 7.0
    clock.start()
    now[0] += 1
    assert clock.seconds() == 8.0


def test_sigterm_is_a_request():
    before = signal.getsignal(signal.SIGTERM)
    try:
        request = TerminationRequest()
        assert not request
        os.kill(os.getpid(), signal.SIGTERM)
        assert request
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    tensors = {"a.x": torch.randn(3, 4), "b": torch.tensor(7), "e": torch.zeros(0, 2, dtype=torch.bfloat16)}
    facts = {"step": 3, "seconds": 0.1 + 0.2, "loader": {"position": 9}}
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, tensors, facts)
    back, back_facts = load_checkpoint(path)
    assert back_facts == facts == checkpoint_facts(path)
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())
    first = sha256_of(path)
    save_checkpoint(path, dict(reversed(tensors.items())), facts)
    assert sha256_of(path) == first


def test_prefixes_are_undone():
    tensors = {"w": torch.ones(1), "x.y": torch.zeros(1)}
    assert with_prefix("model", {**prefixed("model", tensors), "other.w": torch.ones(1)}).keys() == tensors.keys()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    with pytest.raises(ZeroDivisionError), atomic_writer(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with atomic_writer(path) as file:
        file.write(b"whole")
    assert read_bytes(path, "a file") == b"whole"
    with pytest.raises(UserError, match="^a file cannot be read: .*missing: No such file"):
        read_bytes(tmp_path / "missing", "a file")


def test_the_log_keeps_the_same_facts_in_three_places(tmp_path, capsys):
    log = RunLog(tmp_path)
    log.line("step:1/2 train_loss:3.0", event="step", step=1, train_loss=3.0)
    log.line("only text")
    log.progress("nothing without a terminal", 1, 2)
    log.close()
    RunLog(tmp_path).line("resumed", event="resume")
    lines = ["step:1/2 train_loss:3.0", "only text", "resumed"]
    assert capsys.readouterr().out.splitlines() == lines == (tmp_path / "train.log").read_text().splitlines()
    facts = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert facts == [{"event": "step", "step": 1, "train_loss": 3.0}, {"event": "resume"}]


def test_other_ranks_are_silent(tmp_path, capsys):
    log = RunLog(None)
    log.line("never", event="step")
    log.close()
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


def test_the_live_line_shows_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    log = RunLog(tmp_path)
    log.progress("step 5 loss 3.1 bpb 1.5", 5, 10)
    log.close()
    shown = capsys.readouterr().err
    assert "50%" in shown and "step 5 loss 3.1 bpb 1.5" in shown
    assert (tmp_path / "train.log").read_text() == ""


def test_the_code_of_a_run_is_one_file(tmp_path):
    (tmp_path / "train_gpt.py").write_bytes(b"print(1)\n")
    (tmp_path / "train_gpt_readable.py").write_bytes(b"# For people.\nprint(1)\n")
    assert source_sizes(tmp_path) == {"train_gpt.py": 9}
    assert source_hash(tmp_path) == hashlib.sha256(b"print(1)\n").hexdigest()
    assert (repository_root() / "train_gpt.py").exists()


@pytest.mark.parametrize("result, code", [(None, 0), (0, 0), (7, 7)])
def test_commands_end_with_their_code(result, code):
    assert exit_code_of(lambda: result) == code


def test_a_mistake_is_a_line_and_code_two(capsys):
    def mistaken():
        raise UserError("the rule, the value")

    assert exit_code_of(mistaken) == 2
    assert capsys.readouterr().err == "error: the rule, the value\n"


def test_benchmark_rows_hold_or_do_not():
    assert median_row("x", [0.1, 0.5, 0.3], "share", (">=", 0.3)).holds
    assert not Row("x", 2.1, "GiB", ("<=", 2.0), 1).holds
    table = rows_table([Row("x", 2.1, "GiB", ("<=", 2.0), 1, "why")])
    assert "NO" in table and "<= 2" in table and "why" in table
