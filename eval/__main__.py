"""python -m eval score runs/ID, python -m eval sample runs/ID: what model.bin scores and what it writes.

Both read model.bin and nothing else of the run. `python -m eval runs/ID --stride 64` is short for `score`.
"""

import sys
from pathlib import Path

import tyro

from recipes.packed import open_packed
from recipes.run_folder import RunFolder
from recipes.stages import eval_artifact, sample_packed
from recipes.telling import log_final
from runtime.command import exit_with
from runtime.files import write_text
from runtime.log import RunLog
from runtime.machine import start_machine


def score(
    run: tyro.conf.Positional[Path],
    window: int | None = None,
    stride: int | None = None,
) -> None:
    """Scores a packed model with sliding windows, each token once, and writes score.json beside it.

    Args:
        run: the run folder, runs/ID, or a model.bin.
        window: tokens a window; the recipe's by default.
        stride: tokens between windows; the recipe's by default.
    """
    path = _artifact_of(run)
    machine = start_machine()
    report, packed = eval_artifact(path, machine, window, stride)
    if not machine.is_main:
        return
    if run.is_dir():
        # A run folder keeps what was said of it, so that its record finds log and score in agreement.
        log_final(RunLog(run), packed.recipe, report)
    else:
        print(report.line())
    write_text(path.parent / "score.json", report.to_json())
    print(f"{report.score.loss:.6f} nats/token  {report.score.bpb:.6f} bits/byte  {report.artifact_bytes:,} bytes")


def sample(
    run: tyro.conf.Positional[Path],
    prompt: str = "My fellow citizens,",
    tokens: int = 100,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> None:
    """Writes text with a packed model.

    Args:
        run: the run folder, runs/ID, or a model.bin.
        prompt: what the text begins with.
        tokens: how many tokens to write.
        temperature: 0 takes the likeliest token.
        top_k: draw among so many.
        seed: of the draws.
    """
    packed = open_packed(_artifact_of(run), start_machine())
    print(sample_packed(packed, prompt, num_tokens=tokens, temperature=temperature, top_k=top_k, seed=seed))


def _artifact_of(run: Path) -> Path:
    return RunFolder(run).artifact if run.is_dir() else run


def main(arguments: list[str]) -> None:
    """Chooses the command; a path stands for `score`."""
    commands = {"score": score, "sample": sample}
    if arguments and arguments[0] not in (*commands, "-h", "--help"):
        arguments = ["score", *arguments]
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m eval", args=arguments)


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
