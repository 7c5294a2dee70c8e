"""python tests/make_golden.py: writes tests/golden_losses.json anew. Run it only when a change of numerics is meant."""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import build_tiny_data  # noqa: E402
from test_invariants import GOLDEN, golden_artifact_hash  # noqa: E402
from tiny_runs import MODEL_RECIPES, tiny  # noqa: E402

from train_gpt import main  # noqa: E402


def golden_losses(folder: Path) -> dict[str, list[float]]:
    """Ten losses of every recipe, tiny, on the tests' data set."""
    os.environ.update(DATA_PATH=str(build_tiny_data(folder / "tiny")), RUN_ID="golden")
    losses = {}
    for name in MODEL_RECIPES:
        place = folder / name
        place.mkdir()
        os.chdir(place)
        with contextlib.redirect_stdout(io.StringIO()):
            main([name, *tiny(name)])
        facts = [json.loads(line) for line in Path("runs/golden/log.jsonl").read_text().splitlines()]
        losses[name] = [fact["train_loss"] for fact in facts if fact["event"] == "step"]
    return losses


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        golden = {"artifact_sha256": golden_artifact_hash(), "losses": golden_losses(Path(place))}
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
