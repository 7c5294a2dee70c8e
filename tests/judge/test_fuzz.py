"""2,000 random mutations of a valid record end in findings or in none, never in a traceback or a hang."""

import json
import random
import re
import time
from collections import Counter

import pytest
from judge.clean_record import NAME, SCRIPT, TRACK, Files, clean_files, resize
from judge.test_payload import WRAPPERS

from records.judge.finding import SEVERITIES
from records.judge.folder import folder_of
from records.judge.judge import judge_folder

# A mutation takes milliseconds: what takes so long hangs.
HANGING_SECONDS = 60.0
_VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    -0.0,
    10**30,
    "",
    "x",
    "1e999",
    [],
    {},
    [[]],
    {"42": None},
    "\ud800",
    "NaN",
    [1, "2"],
]
_WORDS = ["val_tokens", "y", "tgt", "for", "(", ")", "^", "%", "import os", "lambda:", "0x", '"""', "f'{'", "\t", "="]
_LINES = [
    "val_tokens: " + "9" * 18,
    "seed: 99999999999999",
    "total_eval_time:nans",
    "Hyperparameters:",
    "  a: b",
    "step:1/2 val_loss: inf val_bpb: nan",
    "Total submission size x: ,,,,, bytes",
    "GPTQ:collected 1 Hessians in 9.9.9s",
]


def short_script() -> str:
    """The parts of the clean script that most rules look at: 2,000 of the whole would take a minute."""
    parts = re.split(r"\n\n\n(?=def |class |if )", SCRIPT)
    wanted = ("class SmearGate", "def eval_adaptive", "def eval_tilted", "def main", "if __name__")
    return "\n\n\n".join(part for part in parts if part.startswith(wanted))


def mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    held = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 30))):
        kind, place = draw.randrange(5), draw.randrange(len(held) + 1)
        if kind == 0 and held:
            held[place % len(held)] = draw.randrange(256)
        elif kind == 1:
            held[place:place] = draw.choice((b"\0", b"\xff", b"{", b"9" * 400, b"\xe2\x96\x81", b"\n", b"\r", b"'" * 3))
        elif kind == 2:
            del held[place : place + draw.randrange(200)]
        elif kind == 3:
            held += held[place : place + draw.randrange(2_000)]
        else:
            del held[place:]
    return bytes(held)


def mutated_text(data: bytes, draw: random.Random, words: list[str]) -> bytes:
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(draw.choice((1, 2, 8))):
        place = draw.randrange(len(lines) + 1)
        kind = draw.randrange(5)
        if kind == 0 and lines:
            del lines[place % len(lines)]
        elif kind == 1:
            lines.insert(place, draw.choice(words))
        elif kind == 2 and lines:
            line = lines[place % len(lines)]
            parts = re.split(r"(\W)", line)
            parts[draw.randrange(len(parts))] = draw.choice(words)
            lines[place % len(lines)] = "".join(parts)
        elif kind == 3:
            draw.shuffle(lines)
        else:
            lines[place:place] = lines[: draw.randrange(20)]
    return "\n".join(lines).encode("utf-8", "replace")


def mutated_json(data: bytes, draw: random.Random) -> bytes:
    try:
        tree = json.loads(data)
    except ValueError:
        return data + b"}"
    for _ in range(draw.choice((1, 2, 6))):
        held = draw.choice([tree, tree.get("seed_results"), tree.get("evaluation"), tree])
        held = held if isinstance(held, dict) and held else tree
        key = draw.choice([*held, "evaluation", "seeds", "budget", "all_7_seeds", "val_bpb_mean", "artifact_bytes"])
        held[key] = draw.choice([*_VALUES, draw.uniform(-10, 1e9), json.loads(data) if draw.random() < 0.2 else key])
    text = json.dumps(tree)
    return text.replace('"val_bpb"', '"val_bpb": 1, "val_bpb"', 1).encode() if draw.random() < 0.1 else text.encode()


def mutate(files: Files, draw: random.Random) -> None:
    """One random change of the record."""
    name = draw.choice(list(files))
    kind = draw.randrange(6)
    if kind == 0:
        files[draw.choice(["a b.log", "x/submission.json", "train.py", "ü.txt", "t" * 200, "m.ptz"])] = files.pop(name)
    elif kind == 1:
        files[name] = mutated_bytes(files[name], draw)
    elif name == "submission.json" or kind == 2:
        files["submission.json"] = mutated_json(files.get("submission.json", b"{}"), draw)
    elif kind == 3:
        files["train_gpt.py"] = mutated_text(draw.choice(list(WRAPPERS.values())).encode(), draw, _WORDS)
    else:
        files[name] = mutated_text(files[name], draw, _LINES if name.endswith(".log") else _WORDS)


@pytest.mark.parametrize("start", range(0, 2_000, 500))
def test_mutated_records_end_in_a_verdict(start):
    clean = clean_files()
    before = len(clean["train_gpt.py"])
    clean["train_gpt.py"] = short_script().encode()
    resize(clean, before, len(clean["train_gpt.py"]))
    codes: Counter[int] = Counter()
    for seed in range(start, start + 500):
        draw = random.Random(seed)
        files = dict(clean)
        for _ in range(draw.choice((1, 1, 2))):
            mutate(files, draw)
        began = time.perf_counter()
        verdict = judge_folder(folder_of(files, NAME, TRACK))
        assert time.perf_counter() - began < HANGING_SECONDS, f"seed {seed}"
        assert all(finding.severity in SEVERITIES and str(finding).isprintable() for finding in verdict.findings)
        codes[verdict.exit_code] += 1
    assert set(codes) == {0, 1, 2} and codes[0] < 450, codes
