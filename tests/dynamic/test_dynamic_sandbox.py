"""The sandbox and the messages: what is seen, what is hidden, what is refused."""

import io
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from records.dynamic.recorder import recorded
from records.dynamic.sandbox import Sandbox, SandboxLimits, end_process
from records.dynamic.session import ScorerError, ScorerSession, is_out_of_memory
from records.dynamic.watched import files_probe
from records.dynamic.worker import MAX_PAYLOAD, load_function, message_bytes, read_message


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    """A sandbox with a data folder that it must not show."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x_train_000000.bin").write_text("training text")
    (tmp_path / "scratch").mkdir()
    return Sandbox(tmp_path / "scratch", tmp_path / "data", SandboxLimits(30))


def run_in(box: Sandbox, code: str) -> str:
    """What a Python program prints in the sandbox."""
    process = box.start(["-c", code], box.scratch)
    output, _ = process.communicate(timeout=30)
    return output.decode().strip()


def test_a_process_has_an_empty_home_and_none_of_our_environment(box, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    said = run_in(box, "import os; print(os.listdir(os.path.expanduser('~')), os.environ.get('SECRET_TOKEN'))")
    assert said == "[] None"


def test_the_data_folder_is_empty_inside_and_whole_outside(box):
    if not box.confinement.prefix:
        pytest.skip("no namespaces here")
    assert run_in(box, f"import os; print(os.listdir({str(box.hidden)!r}))") == "[]"
    assert (box.hidden / "x_train_000000.bin").read_text() == "training text"


def test_what_a_process_opens_is_told_even_where_it_fails(box):
    code = f"open('new.txt', 'w').close()\ntry: open({str(box.hidden / 'x_train_000000.bin')!r})\nexcept OSError: pass"
    run_in(box, code)
    opened = box.opened()
    assert ("write", str(box.scratch / "new.txt")) in opened
    assert ("read", str(box.hidden / "x_train_000000.bin")) in opened
    assert {finding.rule for finding in files_probe(box, "a test", box.scratch).findings} == {"train-shard-read"}


def test_links_are_followed_before_they_are_judged(box, tmp_path):
    (tmp_path / "secret.txt").write_text("outside")
    (box.scratch / "inside.txt").symlink_to(tmp_path / "secret.txt")
    run_in(box, "open('inside.txt').read()")
    assert {finding.rule for finding in files_probe(box, "a test", box.scratch).findings} == {"file-outside"}


def test_children_are_watched_and_end_with_their_parent(box):
    code = (
        "import subprocess, sys, time\n"
        "subprocess.run([sys.executable, '-c', \"open('child.txt', 'w').close()\"])\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    process = box.start(["-c", code], box.scratch)
    process.stdout.readline()
    end_process(process, 0)
    assert ("write", str(box.scratch / "child.txt")) in box.opened()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert "sleep 60" not in listed.splitlines()


@pytest.mark.parametrize(
    "event, arguments, entry",
    [
        ("open", ("/a/b", "r", os.O_RDONLY), ("read", "/a/b")),
        ("open", (b"/a/../b", None, os.O_WRONLY), ("write", "/b")),
        ("open", (3, "r", 0), None),
        ("open", ("a\0b", "r", 0), None),
        ("socket.connect", (None, ("10.0.0.1", 80)), ("network", "connection to 10.0.0.1:80")),
        ("socket.connect", (None, "/run/socket"), None),
        ("socket.getaddrinfo", ("example.org", 80, 0, 0, 0), ("network", "look-up of example.org")),
        ("subprocess.Popen", ("curl", [], None, None), ("process", "curl")),
        ("import", ("numpy",), None),
    ],
)
def test_what_an_audit_event_means(event, arguments, entry):
    assert recorded(event, arguments) == entry


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 300])
def test_messages_come_back_whole_however_they_are_cut(payload):
    pipe = io.BytesIO(message_bytes({"op": "score"}, payload))
    assert read_message(lambda count: pipe.read(min(count, 7))) == ({"op": "score"}, payload)
    with pytest.raises(EOFError):
        read_message(pipe.read)


def test_a_message_that_is_none_is_refused():
    with pytest.raises(ValueError, match="a message holds at most"):
        read_message(io.BytesIO(struct.pack("<IQ", 2, MAX_PAYLOAD + 1) + b"{}").read)


@pytest.mark.parametrize(
    "rows", ["np.zeros((2, 9))", "np.zeros(3)", "np.zeros((3, 8))", "'none'", "np.array([['a'] * 9] * 3)"]
)
def test_rows_of_another_shape_or_kind_are_no_answer(rows, box):
    scorer = box.scratch / "scorer.py"
    answer = f"import numpy as np\nclass Odd:\n    def log_probs(self, tokens, state):\n        return {rows}, state\n"
    scorer.write_text(f"{answer}def make(path):\n    return Odd()\n")
    session = ScorerSession(box, f"{scorer}:make", scorer, vocab_size=9)
    session.fresh()
    with pytest.raises(ScorerError):
        session.score(np.arange(3))
    session.end()


def test_a_function_is_found_beside_its_own_modules(tmp_path, monkeypatch):
    (tmp_path / "beside_it.py").write_text("answer = 42\n")
    (tmp_path / "the_scorer.py").write_text("from beside_it import answer\n\ndef make(path):\n    return answer\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_function(f"{tmp_path / 'the_scorer.py'}:make")("") == 42


def test_memory_is_told_from_other_failures():
    assert is_out_of_memory("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert not is_out_of_memory("ValueError: shapes")
