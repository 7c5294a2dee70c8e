"""The score of a fixed budget: 300 seconds of training on the speeches, read back from the bytes.

For scale: the public script of pull request 465, scaled to 1.06 M parameters (6 layers, width 128, windows of 512,
8,192 tokens a step), reached 1.748 bits per byte in 1,736,179 bytes on the same corpus, budget and number of cores.
"""

import json
import tempfile
from pathlib import Path

from benchmarks.process import run_python
from benchmarks.row import Row
from runtime.source import repository_root


def score_rows() -> list[Row]:
    """Bits per byte and bytes of the demo recipe, trained for 300 seconds. Raises RuntimeError when the run fails."""
    data = str(repository_root() / "data/datasets/sotu_sp1024")
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(repository_root() / "train_gpt.py"), "demo", "--train.seconds", "300"]
        run_python(arguments, Path(folder), DATA_PATH=data, RUN_ID="score")
        run = Path(folder, "runs/score")
        score = json.loads((run / "score.json").read_text())
        facts = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    trained = next(fact for fact in facts if fact["event"] == "trained")
    note = f"{trained['step']} steps, {trained['tokens']:,} tokens, window {score['window']}, stride {score['stride']}"
    return [
        Row("bpb_demo_300s", score["val_bpb"], "bits per byte", ("<=", 1.62), 1, note),
        Row("bytes_demo_300s", score["artifact_bytes"], "bytes, no code", ("<=", 1_000_000), 1),
    ]
