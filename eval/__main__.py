"""python -m eval score | sample | memory | means runs/ID: what model.bin scores, writes and remembers.

All read model.bin and nothing else of the run; `python -m eval recall` trains what it asks.
`python -m eval runs/ID --stride 64` is short for `score`, and `--protocol stream` scores a run as a stream that claims
windows; the options are then those of StreamConfig.
"""

import sys
from pathlib import Path
from typing import Literal

import tyro

from eval.memory import memory_scores, memory_table
from eval.sliding import EvalConfig
from eval.streaming import StreamConfig, document_streams
from eval.window_means import mean_losses
from recipes.override import overridden
from recipes.packed import open_packed
from recipes.recall import RecallTraining, recall_results, recall_table, recall_tasks
from recipes.recipe import Recipe
from recipes.run_folder import RunFolder
from recipes.stages import eval_artifact, open_validation, recipe_dataset, sample_packed
from recipes.telling import log_final
from runtime.command import exit_with
from runtime.files import write_text
from runtime.log import RunLog
from runtime.machine import start_machine


def score(
    run: tyro.conf.Positional[Path],
    protocol: Literal["sliding", "stream"] | None = None,
    window: int | None = None,
    stride: int | None = None,
    chunk: int | None = None,
    documents: Literal["continue", "restart"] | None = None,
) -> None:
    """Scores a packed model, each token once, and writes score.json beside it.

    Args:
        run: the run folder, runs/ID, or a model.bin.
        protocol: in sliding windows, or as a stream with the state carried on; the recipe's by default.
        window: tokens a window; the recipe's by default.
        stride: tokens between windows; the recipe's by default.
        chunk: tokens of a stream at a time; the recipe's by default.
        documents: whether a stream's state goes on where a document begins; the recipe's by default.
    """
    path = _artifact_of(run)
    machine = start_machine()
    given = {"window": window, "stride": stride, "chunk": chunk, "documents": documents}
    changes = [f"--{name}={value}" for name, value in given.items() if value is not None]
    report, packed = eval_artifact(path, machine, lambda recipe: overridden(_protocol_of(recipe, protocol), changes))
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


def memory(run: tyro.conf.Positional[Path]) -> None:
    """Scores a packed model as a stream with memory and caches on, each one off, and both, by place in the document.

    Args:
        run: the run folder, runs/ID, or a model.bin.
    """
    packed = open_packed(_artifact_of(run), start_machine())
    validation = open_validation(recipe_dataset(packed.recipe))
    chunk = getattr(packed.recipe.model, "window", 0)
    print(memory_table(memory_scores(packed.model, validation.tokens, validation.byte_table, chunk)))


def means(run: tyro.conf.Positional[Path], context: int = 512) -> None:
    """The metric of the BakaLLM posts, which weighs every window alike, beside the loss a token.

    Args:
        run: the run folder, runs/ID, or a model.bin.
        context: tokens a window; half of it between windows.
    """
    packed = open_packed(_artifact_of(run), start_machine())
    tokens = open_validation(recipe_dataset(packed.recipe)).tokens
    print(mean_losses(packed.model, tokens, document_streams(tokens), context).line())


def recall(
    task: Literal["mqar"] = "mqar",
    pairs: tuple[int, ...] = (8, 16),
    seeds: int = 3,
    steps: int = RecallTraining.steps,
    out: Path = Path("runs/recall.jsonl"),
) -> None:
    """Trains two layers of each mixer to recall, tells of every check and prints the accuracies on unseen examples.

    Args:
        task: multi-query associative recall.
        pairs: 8 or 16 of them in 64 tokens, 32 in 128, which take twice as long.
        seeds: how many trainings of each.
        steps: of a training that does not reach 99 %.
        out: finished trainings; those that it holds already are not done again.
    """
    training = RecallTraining(steps=steps)
    results = recall_results(recall_tasks(task, pairs), seeds, training, out, lambda line: print(line, flush=True))
    print(recall_table(results))


def _protocol_of(recipe: Recipe, protocol: str | None) -> EvalConfig | StreamConfig:
    """How the recipe is scored; where another protocol is asked for, that one in the windows that it trains in.

    They are the recipe's own: overrides of training do not travel with a packed model.
    """
    window, batch_tokens = recipe.train.window, recipe.eval.batch_tokens
    if protocol == "sliding" and not isinstance(recipe.eval, EvalConfig):
        return EvalConfig(window, min(64, window), batch_tokens)
    if protocol == "stream" and not isinstance(recipe.eval, StreamConfig):
        return StreamConfig(window, batch_tokens=batch_tokens)
    return recipe.eval


def _artifact_of(run: Path) -> Path:
    return RunFolder(run).artifact if run.is_dir() else run


def main(arguments: list[str]) -> None:
    """Chooses the command; a path stands for `score`."""
    commands = {"score": score, "sample": sample, "memory": memory, "means": means, "recall": recall}
    if arguments and arguments[0] not in (*commands, "-h", "--help"):
        arguments = ["score", *arguments]
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m eval", args=arguments)


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
