"""A record folder out of finished runs: one recipe, one or several seeds, the very files that are counted."""

import re
from pathlib import Path
from typing import Any

from records.evidence import Evidence, read_evidence
from records.fields import protocol_words
from records.figures import latest_date, submission_of, without_seed
from records.folder import write_folder
from records.readme import record_readme
from records.submission import check_track, write_submission
from runtime.errors import UserError
from runtime.files import read_bytes, write_bytes, write_text
from runtime.source import CODE_FILE, READABLE_FILE, repository_root

# What a counted file imports beyond Python itself.
RUNTIME_PACKAGES = ("torch", "numpy", "sentencepiece", "zstandard", "safetensors")
# What it imports beside them when its recipe names a storage kind that does.
RANGE_CODER_PACKAGE = "constriction"


def new_record(
    runs: list[Path],  # run folders; the first one's model.bin goes into the record
    destination: Path | None = None,  # the folder that holds the tracks; None: records/ beside runs/
) -> Path:
    """Writes the record of `runs` and returns its folder, <destination>/<track>/<date>_<title>[-2, -3 ...].

    Raises UserError when a run is not finished or contradicts itself, when the runs differ in more than the seed, and
    when the folder cannot be written; nothing half made stays behind.
    """
    if not runs:
        raise UserError("a record takes at least 1 run folder, got none; for example runs/demo-20261121-120000")
    evidence = [read_evidence(Path(run)) for run in runs]
    check_same_but_seed(evidence)
    facts = evidence[0].facts
    check_track(facts.record.track)
    twin = read_bytes(evidence[0].path / READABLE_FILE, "the readable code of a run").decode("utf-8")
    requirements = runtime_requirements(twin)
    name = f"{latest_date(evidence)}_{folder_title(facts.record.title)}"
    place = (destination or Path("records")) / facts.record.track / name
    return write_folder(place, lambda folder: _fill(folder, evidence, requirements))


def check_same_but_seed(runs: list[Evidence]) -> None:
    """Raises UserError when runs differ in recipe, code, machine or evaluation, or when two have the same seed."""
    first = runs[0]
    for index, run in enumerate(runs[1:], start=1):
        for what, value in _identity(first).items():
            other = _identity(run)[what]
            if value != other:
                raise UserError(
                    f"the runs of one record differ in the seed alone; {what} must be that of {first.path}, {value}, "
                    f"got {other} in {run.path}"
                )
        for earlier in runs[:index]:
            if earlier.facts.seed == run.facts.seed:
                raise UserError(
                    f"each run of a record needs a seed of its own, got {run.facts.seed} in both {earlier.path} and "
                    f"{run.path}"
                )


def folder_title(title: str) -> str:
    """A title as part of a folder name. Raises UserError when it has no letter or digit.

    >>> folder_title("the #465 stack, int5/int6")
    'The465StackInt5Int6'
    """
    words = re.findall(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", title)
    if not words:
        raise UserError(f"record.title must hold a letter or digit, got {title!r}; for example Demo")
    return "".join(word[0].upper() + word[1:] for word in words).rstrip(".")


def runtime_requirements(readable: str) -> str:
    """The lines of requirements.txt that a counted file needs, pins included; `readable` is its twin.

    Raises UserError when one is missing.
    """
    packages = list(RUNTIME_PACKAGES)
    if f"\nfrom {RANGE_CODER_PACKAGE} import " in readable:
        packages.append(RANGE_CODER_PACKAGE)
    path = repository_root() / "requirements.txt"
    text = read_bytes(path, "the list of requirements").decode("utf-8")
    lines = {match[0].lower(): line for line in text.splitlines() if (match := re.match(r"[A-Za-z0-9_-]+", line))}
    if missing := [name for name in packages if name not in lines]:
        raise UserError(f"{path} must name {', '.join(packages)}, got no {', '.join(missing)}")
    return "".join(f"{lines[name]}\n" for name in packages)


def _identity(run: Evidence) -> dict[str, Any]:
    """What the runs of one record share."""
    facts, score, start = run.facts, run.score, run.start
    return {
        "recipe": facts.recipe,
        "overrides": " ".join(without_seed(facts.overrides)) or "none",
        "record": facts.record,
        "training cap": facts.train_seconds_cap,
        "budget": facts.budget,
        "code (SHA-256)": start.code_sha256,
        "hardware": f"{start.hardware}, {start.world_size} ranks",
        "versions": f"PyTorch {start.torch}, Python {start.python}",
        "evaluation": protocol_words(score),
        "validation text": f"{score.tokens} tokens of {score.bytes} bytes",
    }


def _fill(folder: Path, runs: list[Evidence], requirements: str) -> None:
    """Everything that a record holds, into the empty `folder`."""
    logs = ["train.log"] if len(runs) == 1 else [f"train_seed{run.facts.seed}.log" for run in runs]
    for name in (f"code/{CODE_FILE}", READABLE_FILE, "model.bin", "ledger.json"):
        write_bytes(folder / Path(name).name, read_bytes(runs[0].path / name, "a file of a run"))
    for name, run in zip(logs, runs, strict=True):
        write_bytes(folder / name, read_bytes(run.path / "train.log", "the log of a run"))
    write_text(folder / "requirements.txt", requirements)
    submission = submission_of(runs, folder)
    write_submission(folder / "submission.json", submission)
    write_text(folder / "README.md", record_readme(submission, runs, logs))
