"""What a finished run proves: its recipe, score, ledger and log, read and made to agree with the files on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records.fields import PROTOCOL_FIELDS
from records.log_grammar import LoggedWork, TrainLog, read_log
from records.run_files import LedgerFacts, RunFacts, ScoreFacts, StartEvent, TrainedEvent, ValidationEvent
from records.typed_json import parse_json, read_json, typed
from runtime.errors import UserError, nearest
from runtime.files import read_bytes, sha256_of
from runtime.source import CODE_FILE, READABLE_FILE, source_hash


@dataclass(frozen=True)
class Evidence:
    """A finished run whose files agree with each other."""

    path: Path
    facts: RunFacts
    score: ScoreFacts
    ledger: LedgerFacts
    start: StartEvent
    trained: TrainedEvent
    validation: ValidationEvent
    log: TrainLog

    @property
    def code(self) -> Path:
        """The folder of the counted file, which is alone in it."""
        return self.path / "code"


def read_evidence(path: Path) -> Evidence:
    """The evidence in the run folder `path`.

    Raises UserError when a file is missing (with the command that makes it), when a key is missing or of the wrong
    type, and when log, ledger, score and disk do not agree (with all values).
    """
    _check_finished(path)
    events = _last_events(path / "log.jsonl")
    run = Evidence(
        path,
        facts=_read(path / "recipe.json", RunFacts),
        score=_read(path / "score.json", ScoreFacts),
        ledger=_read(path / "ledger.json", LedgerFacts),
        start=_event(events, "start", StartEvent, path),
        trained=_event(events, "trained", TrainedEvent, path),
        validation=_event(events, "validation", ValidationEvent, path),
        log=read_log(path / "train.log"),
    )
    _check_artifact(run)
    _check_code(run)
    _check_total(run)
    _check_log(run)
    _check_score(run, _event(events, "final", ScoreFacts, path))
    return run


def _check_finished(path: Path) -> None:
    if not path.is_dir():
        siblings = [folder.name for folder in path.parent.glob("*") if folder.is_dir()]
        raise UserError(f"a record is made of run folders, got {path}; {nearest(path.name, siblings)}")
    training = f"train_gpt.py with RUN_ID={path.name}"
    written = (f"code/{CODE_FILE}", READABLE_FILE, "recipe.json", "log.jsonl", "train.log")
    stages = [(name, training) for name in written]
    if not (path / "model.bin").exists():
        stages += [("weights.safetensors", training), ("codes.safetensors", f"python -m quantize {path}")]
    stages += [(name, f"python -m compress {path}") for name in ("model.bin", "ledger.json")]
    for name, command in [*stages, ("score.json", f"python -m eval {path}")]:
        if not (path / name).exists():
            raise UserError(f"a record is made of finished runs: {path / name} is missing; {command} makes it")


def _last_events(path: Path) -> dict[str, tuple[Any, str]]:
    """Name -> (the last event of that name, where it stands)."""
    events = {}
    lines = read_bytes(path, "the facts of a run").decode("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        place = f"{path} line {number}"
        event = parse_json(line, place)
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise UserError(f"{place} must be an object with an event, got {line[:60]!r}")
        events["start" if event["event"] == "resume" else event["event"]] = event, place
    return events


def _event(events: dict[str, tuple[Any, str]], name: str, kind: type, path: Path) -> Any:
    if name not in events:
        raise UserError(
            f"{path / 'log.jsonl'} must tell of {name!r}, got {', '.join(sorted(events)) or 'nothing'}; {_remedy(path)}"
        )
    return typed(events[name][0], kind, events[name][1])


def _check_artifact(run: Evidence) -> None:
    """model.bin is what was scored, counted and logged."""
    artifact, ledger = run.path / "model.bin", run.ledger
    digests = {"model.bin": sha256_of(artifact), "score.json": run.score.artifact_sha256}
    _agree(run, "the artifact's SHA-256", digests, f"python -m eval {run.path} scores it again")
    sizes = {
        "model.bin": artifact.stat().st_size,
        "ledger.json": ledger.model_total,
        "its entries": sum(entry.data + entry.scales for entry in ledger.entries) + ledger.header + ledger.checksum,
        "score.json": run.score.artifact_bytes,
        "train.log": run.log.size("model"),
    }
    _agree(run, "the artifact's bytes", sizes)


def _check_code(run: Evidence) -> None:
    """The counted file is counted with its bytes, and there is no other in code/ or in the ledger."""
    sizes, counted = _code_sizes(run), run.ledger.code
    for name in sorted(sizes.keys() | counted.keys()):
        if name != CODE_FILE:
            raise UserError(f"{run.path}: a record ships one file of code, {CODE_FILE}, got {name} as well")
        values = {"code/": sizes.get(name), "ledger.json": counted.get(name)}
        _agree(run, f"the bytes of {name}", values, f"python -m compress {run.path} counts them again")
    logged = run.log.size("code")
    sums = {"code/": sum(sizes.values()), "ledger.json": run.ledger.code_total, "train.log": logged}
    _agree(run, "the code's bytes", sums)
    _agree(run, "the code's SHA-256", {"code/": source_hash(run.code), "log.jsonl": run.start.code_sha256})


def _check_total(run: Evidence) -> None:
    on_disk = (run.path / "model.bin").stat().st_size + sum(_code_sizes(run).values())
    _agree(
        run, "the total bytes", {"disk": on_disk, "ledger.json": run.ledger.total, "train.log": run.log.size("total")}
    )
    _agree(run, "the budget", {"recipe.json": run.facts.budget, "ledger.json": run.ledger.budget})


def _check_log(run: Evidence) -> None:
    """The log is of this recipe and seed, and of all of training."""
    facts, validations = run.facts, run.log.validations
    _agree(run, "the seed", {"recipe.json": facts.seed, "log.jsonl": run.start.seed, "train.log": run.log.seed})
    _agree(run, "the fingerprint", {"recipe.json": facts.fingerprint, "log.jsonl": run.start.fingerprint})
    logged = validations[-1].step if validations else None
    _agree(run, "the number of steps", {"log.jsonl": run.trained.step, "train.log": logged})
    _agree(run, "the model FLOPs", {"log.jsonl": _rounded(run.trained), "train.log": _rounded(run.log.work)})


def _check_score(run: Evidence, final: ScoreFacts) -> None:
    """score.json is what both logs tell of last; train.log has eight decimals."""
    said = run.log.final
    for field in ("val_loss", "val_bpb"):
        values = {"score.json": run.score, "log.jsonl": final, "train.log": said}
        _agree(run, field, {place: f"{getattr(held, field):.8f}" if held else None for place, held in values.items()})
    for field in ("protocol", *PROTOCOL_FIELDS, "tokens", "bytes", "artifact_sha256"):
        _agree(run, field, {"score.json": getattr(run.score, field), "log.jsonl": getattr(final, field)})


def _rounded(told: TrainedEvent | LoggedWork | None) -> str | None:
    """The model FLOPs, to as many digits as train.log has."""
    flops = told and told.model_flops
    return None if flops is None else f"{flops:.4e}"


def _code_sizes(run: Evidence) -> dict[str, int]:
    """Every file of code/, whatever it is."""
    files = (path for path in run.code.rglob("*") if path.is_file())
    return {path.relative_to(run.code).as_posix(): path.stat().st_size for path in files}


def _read(path: Path, kind: type) -> Any:
    return typed(read_json(path, "a file of a run folder"), kind, str(path))


def _agree(run: Evidence, what: str, values: dict[str, Any], remedy: str | None = None) -> None:
    """Raises UserError unless all places say the same; each is named with its value."""
    if len(set(values.values())) > 1:
        said = ", ".join(f"{'nothing' if value is None else value} ({place})" for place, value in values.items())
        raise UserError(f"{run.path}: {what} must be the same everywhere, got {said}; {remedy or _remedy(run.path)}")


def _remedy(path: Path) -> str:
    return f"train_gpt.py with RUN_ID={path.name} repeats the stages after training and logs them"
