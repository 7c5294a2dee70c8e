"""Training as processes: killed, stopped, restarted, spread over ranks; always the same weights."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import ROOT, command, tiny

TRAIN = str(ROOT / "train_gpt.py")


def torchrun(*options: str, recipe: str = "int5_int6", **changes) -> list[str]:
    return ["-m", "torch.distributed.run", *options, TRAIN, recipe, *tiny(**changes)]


def start(arguments, folder, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def outputs_of(processes: list[subprocess.Popen], timeout: float) -> list[str]:
    """What the processes print until they end, all read at once; who still runs at the end is killed and named."""
    with ThreadPoolExecutor(len(processes)) as readers:
        reading = [readers.submit(lambda process=process: process.communicate()[0]) for process in processes]
        if wait(reading, timeout).not_done:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("still running:\n" + "\n---\n".join(read.result() for read in reading))
        return [read.result() for read in reading]


def losses(run) -> dict[int, float]:
    facts = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {fact["step"]: fact["train_loss"] for fact in facts if fact["event"] == "step"}


def wait_for_step(run, step, process, timeout=60.0):
    """Returns once the run has logged `step`."""
    end = time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        if (run / "log.jsonl").exists() and max(losses(run), default=0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {process.communicate(timeout=10)[0]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def reference(run_tiny):
    """A run of 40 steps that nobody disturbed: the weights that every disturbed one must reach."""
    return lambda recipe: run_tiny(recipe, "reference", train__steps=40)


@pytest.mark.parametrize("recipe", ["int5_int6", "demo"])
def test_a_killed_run_resumes_to_the_same_bytes(recipe, workplace, reference):
    expected = (reference(recipe) / "weights.safetensors").read_bytes()
    run = workplace / "runs" / "killed"
    process = start([TRAIN, recipe, *tiny(train__steps=40)], workplace, RUN_ID="killed")
    wait_for_step(run, 9, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "weights.safetensors").exists()
    finished = command([TRAIN, recipe, *tiny(train__steps=40)], workplace, RUN_ID="killed")
    assert finished.returncode == 0, finished.stderr
    assert "resuming at step" in finished.stdout
    assert (run / "weights.safetensors").read_bytes() == expected


def test_sigterm_finishes_the_step_and_exits_with_its_own_code(workplace, reference):
    expected = load_file(reference("int5_int6") / "weights.safetensors")
    run = workplace / "runs" / "stopped"
    arguments = [TRAIN, "int5_int6", *tiny(train__steps=40, train__checkpoint_every="none")]
    process = start(arguments, workplace, RUN_ID="stopped")
    wait_for_step(run, 5, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    stopped_at = int(re.search(r"stopped by SIGTERM after step (\d+)", output)[1])
    assert 5 <= stopped_at < 40
    finished = command(arguments, workplace, RUN_ID="stopped")
    assert f"resuming at step {stopped_at}," in finished.stdout
    # The file names its recipe, which has another cadence of checkpoints here; the tensors must be the same.
    weights = load_file(run / "weights.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_two_ranks_train_to_the_losses_of_one(workplace, run_tiny):
    alone = losses(run_tiny("int5_int6", "alone"))
    done = command(torchrun("--standalone", "--nproc_per_node=2"), workplace, RUN_ID="pair")
    assert done.returncode == 0, done.stderr
    assert losses(workplace / "runs" / "pair") == pytest.approx(alone, rel=1e-5)
    scores = [json.loads((workplace / "runs" / name / "score.json").read_text()) for name in ("alone", "pair")]
    assert scores[0]["val_bpb"] == pytest.approx(scores[1]["val_bpb"], rel=1e-5)
    assert scores[0]["tokens"] == scores[1]["tokens"]


def test_two_agents_with_one_rank_each_train_to_the_losses_of_one(workplace, run_tiny):
    alone = losses(run_tiny("int5_int6", "alone"))
    rendezvous = (
        "--nnodes=2",
        "--nproc_per_node=1",
        "--rdzv_backend=c10d",
        "--rdzv_id=two-agents",
        "--local_addr=127.0.0.1",
        f"--rdzv_endpoint=127.0.0.1:{free_port()}",
    )
    environment = {"RUN_ID": "agents", "GLOO_SOCKET_IFNAME": "lo"}
    agents = [start(torchrun(*rendezvous), workplace, **environment) for _ in range(2)]
    outputs = outputs_of(agents, timeout=180)
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert losses(workplace / "runs" / "agents") == pytest.approx(alone, rel=1e-5)


def test_a_rank_that_dies_is_restarted_from_the_checkpoint(workplace, reference):
    expected = (reference("int5_int6") / "weights.safetensors").read_bytes()
    run = workplace / "runs" / "reborn"
    arguments = torchrun("--standalone", "--nproc_per_node=1", "--max-restarts=1", train__steps=40)
    agent = start(arguments, workplace, RUN_ID="reborn")
    wait_for_step(run, 9, agent)
    children = subprocess.run(
        ["pgrep", "-P", str(agent.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = agent.communicate(timeout=120)
    assert agent.returncode == 0, output
    assert "resuming at step" in output
    assert (run / "weights.safetensors").read_bytes() == expected


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_group(workplace):
    arguments = [TRAIN, "int5_int6", *tiny(train__steps=40, optim__scalar_lr="1e30", train__checkpoint_every=1)]
    run = workplace / "runs" / "blown"
    failed = command(arguments, workplace, RUN_ID="blown")
    assert failed.returncode == 3
    message = failed.stderr.strip().splitlines()[-1]
    step = int(re.match(r"error: step (\d+): the loss is", message)[1])
    assert "scalar weights" in message or "scalar gradients" in message
    assert (run / "checkpoint.safetensors").exists() == (step > 1)
    assert not (run / "model.bin").exists()
