"""Records: submission.json, the two log grammars, and record folders out of synthetic runs; every refusal planted."""

import errno
import hashlib
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from records.evidence import read_evidence
from records.fields import implied_bytes, judged, mean_and_std
from records.log_grammar import (
    LoggedMachine,
    LoggedScore,
    LoggedSize,
    LoggedStop,
    LoggedValidation,
    LoggedWork,
    parse_log,
)
from records.new import folder_title, new_record, runtime_requirements
from records.submission import read_submission, write_submission
from runtime.errors import UserError
from runtime.source import source_hash, source_sizes

ROOT = Path(__file__).resolve().parent.parent
TOKENS, BYTES = 1000, 2500
CODE = 'print("the code of the record")\n'
TWIN = f"# The same for people.\n{CODE}"


def make_run(
    parent: Path,
    seed: int,
    *,
    bpb: float = 2.0,
    model_bytes: int = 700,
    train_seconds: float = 29.5,
    overrides: tuple[str, ...] = ("--train.seconds", "30"),
    code: str = CODE,
    hardware: str = "2 CPU cores (AVX512)",
) -> Path:
    """A finished run folder as train_gpt.py leaves it, with a model.bin of noise."""
    run = parent / "runs" / f"demo-{seed}"
    (run / "code").mkdir(parents=True)
    (run / "code" / "train_gpt.py").write_text(code)
    (run / "train_gpt_readable.py").write_text(TWIN)
    model = random.Random(seed).randbytes(model_bytes)
    (run / "model.bin").write_bytes(model)
    sizes = source_sizes(run / "code")
    ledger = {
        "entries": [
            {"group": "embed", "kind": "int8", "tensors": 1, "elements": 600, "data": model_bytes - 100, "scales": 18},
            {"group": "scale", "kind": "fp16", "tensors": 1, "elements": 10, "data": 20, "scales": 0},
        ],
        "header": 30,
        "checksum": 32,
        "code": sizes,
        "budget": 16_000_000,
        "model_total": model_bytes,
        "code_total": sum(sizes.values()),
        "total": model_bytes + sum(sizes.values()),
        "headroom": 16_000_000 - model_bytes - sum(sizes.values()),
    }
    loss = bpb * math.log(2) * BYTES / TOKENS
    score = {
        "protocol": "sliding windows",
        "val_loss": loss,
        "val_bpb": bpb,
        "tokens": TOKENS,
        "bytes": BYTES,
        "implied_bytes": BYTES,
        "window": 512,
        "stride": 64,
        "seconds": 1.25,
        "tokens_run": 8000,
        "artifact_bytes": model_bytes,
        "artifact_sha256": hashlib.sha256(model).hexdigest(),
    }
    recipe = {
        "recipe": "demo",
        "overrides": [*overrides, "--train.seed", str(seed)],
        "fingerprint": f"{seed:016x}",
        "seed": seed,
        "started": "2026-11-21T23:27:08",
        "train_seconds_cap": 30.0,
        "budget": 16_000_000,
        "record": {
            "title": "Demo",
            "blurb": "Two minutes of the #465 stack.",
            "track": "track_non_record_16mb",
            "author": "Sixteen",
            "github_id": "sixteen",
        },
    }
    start = {
        "event": "start",
        "seed": seed,
        "fingerprint": recipe["fingerprint"],
        "parameters": 610,
        "code_sha256": source_hash(run / "code"),
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "hardware": hardware,
        "world_size": 2,
    }
    trained = {"event": "trained", "step": 40, "tokens": 4000, "train_seconds": train_seconds}
    events = [
        start,
        {"event": "step", "step": 40, "train_loss": 4.0},
        {**trained, "step": 39},
        trained,
        {"event": "validation", "step": 40, "weights": "last weights", "val_bpb": 9.9},
        {"event": "validation", "step": 40, "weights": "average of 40", "val_bpb": bpb - 0.01},
        {"event": "final", **score},
    ]
    log = [
        f"recipe demo (fingerprint {recipe['fingerprint']}) seed:{seed} run:{run}",
        "step:40/20000 train_loss:4.0000 train_time:29500ms step_avg:737.50ms grad_norm:0.871 lr_multiplier:0.230",
        "step:40/20000 val_loss:4.1 val_bpb:1.99 train_time:29500ms step_avg:737.50ms weights:average_of_40",
        f"Serialized model zstd22: {model_bytes} bytes",
        f"Code size: {ledger['code_total']} bytes",
        f"Total submission size zstd22: {ledger['total']} bytes",
        f"sliding window=512 stride=64 val_loss:{loss:.8f} val_bpb:{bpb:.8f} tokens:{TOKENS} eval_time:1250ms",
        f"final_zstd22_roundtrip val_loss:{loss:.4f} val_bpb:{bpb:.4f} eval_time:1250ms",
        f"final_zstd22_roundtrip_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}",
    ]
    for name, value in {"ledger": ledger, "score": score, "recipe": recipe}.items():
        (run / f"{name}.json").write_text(json.dumps(value))
    (run / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (run / "train.log").write_text("\n".join(log) + "\n")
    return run


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_events(run: Path, event: str, **changes) -> None:
    """Changes every such event of log.jsonl; `drop=True` removes them."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    events = [found | changes if found["event"] == event else found for found in events]
    (run / "log.jsonl").write_text("".join(json.dumps(found) + "\n" for found in events if not found.get("drop")))


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def files_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, 42)


def test_one_run_becomes_a_record(tmp_path, run):
    folder = new_record([run], tmp_path / "records")
    assert folder == tmp_path / "records/track_non_record_16mb/2026-11-21_Demo"
    made = ["README.md", "ledger.json", "model.bin", "requirements.txt", "submission.json", "train.log"]
    assert files_under(folder) == sorted([*made, "train_gpt.py", "train_gpt_readable.py"])
    for name in ("model.bin", "ledger.json", "train.log", "train_gpt_readable.py"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    submission = read_submission(folder / "submission.json")
    assert (submission.val_bpb, submission.val_bpb_std, submission.seeds) == (2.0, None, [42])
    code = len(CODE)
    assert (folder / "train_gpt.py").read_text() == CODE
    assert (submission.bytes_code, submission.bytes_model, submission.bytes_total) == (code, 700, code + 700)
    assert submission.code_sha256 == source_hash(folder) == hashlib.sha256(CODE.encode()).hexdigest()
    assert (submission.overrides, submission.fingerprint) == (["--train.seconds", "30"], f"{42:016x}")
    result = submission.seed_results[42]
    assert (result.steps, result.step_avg_ms, result.tokens_seen, result.eval_time_s) == (40, 737.5, 4000, 1.25)
    assert read_evidence(run).log.final.val_bpb == 2.0


STREAMED = {"protocol": "stream", "window": None, "stride": None, "chunk": 512, "documents": "continue"}


def as_stream(run: Path, **changes) -> Path:
    """The run as if it had been scored as a stream."""
    score = {name: value for name, value in (STREAMED | changes).items() if value is not None}
    for path in (run / "score.json", run / "log.jsonl"):
        path.write_text(path.read_text().replace('"window": 512, "stride": 64, ', ""))
    edit_json(run / "score.json", **score)
    edit_events(run, "final", **score)
    replace_in(run / "train.log", "sliding window=512 stride=64", "stream chunk=512 documents=continue")
    return run


def test_a_stream_becomes_a_record(tmp_path, run):
    folder = new_record([as_stream(run)], tmp_path / "records")
    tree = json.loads((folder / "submission.json").read_text())["evaluation"]
    assert {name: tree.get(name) for name in STREAMED} == STREAMED
    words = "stream in chunks of 512, the state carried through the text, 1,000 tokens of 2,500 bytes, each scored once"
    assert words in (folder / "README.md").read_text()
    assert read_submission(folder / "submission.json").evaluation.chunk == 512
    labels = [score.label for score in parse_log((folder / "train.log").read_text()).scores]
    assert labels[0] == "stream chunk=512 documents=continue"
    other = as_stream(make_run(tmp_path, 43), documents="restart")
    with pytest.raises(
        UserError, match="evaluation must be that of .*, the state carried through the text, got stream"
    ):
        new_record([run, other], tmp_path / "records")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 512}, r"told by chunk and documents for stream, got \['window', 'chunk', 'documents'\]"),
        ({"chunk": None}, r"told by chunk and documents for stream, got \['documents'\]"),
        (
            {"protocol": "sliding windows"},
            r"told by window and stride for sliding windows, got \['chunk', 'documents'\]",
        ),
    ],
)
def test_a_protocol_is_told_by_its_own_fields(tmp_path, run, changes, message):
    as_stream(run, **changes)
    with pytest.raises(UserError, match=f"evaluation must be {message}"):
        new_record([run], tmp_path / "records")


def test_a_stream_is_told_alike_everywhere(tmp_path, run):
    edit_json(as_stream(run) / "score.json", documents="restart")
    assert_refused(tmp_path, [run], "documents", "restart (score.json), continue (log.jsonl)", "RUN_ID=demo-42")


def calibrated(run: Path, model_flops: float = 2.95e11) -> Path:
    """The run as if its machine had been measured: both ranks together have a bf16 peak of 40 GFLOP/s."""
    share = model_flops / 29.5 / 40e9
    edit_events(run, "start", bf16_peak_gflops=20.0, fp32_peak_gflops=30.0)
    edit_events(run, "trained", model_flops=model_flops, share_of_peak=share)
    with (run / "train.log").open("a") as log:
        log.write("model_params:610 compute:fp32 bf16_peak:20.0 fp32_peak:30.0 GFLOP/s a rank\n")
        log.write(f"tokens:4000 epochs:0.1 tok/s:136 model_flops:{model_flops:.4e} share_of_bf16_peak:{share:.3f}\n")
    return run


def test_what_the_machine_can_do_travels_into_the_record(tmp_path, run):
    folder = new_record([calibrated(run)], tmp_path / "records")
    result = read_submission(folder / "submission.json").seed_results[42]
    assert (result.bf16_peak_gflops, result.fp32_peak_gflops, result.model_flops) == (40.0, 60.0, 2.95e11)
    assert result.share_of_peak == pytest.approx(0.25)
    readme = (folder / "README.md").read_text()
    assert "## Machine" in readme and "| 42 | 40.0 | 60.0 | 4,000 | 2.95e+11 | 0.250 |" in readme


def test_a_run_that_does_not_tell_of_its_machine_becomes_a_record_that_does_not(tmp_path, run):
    edit_events(run, "start", bf16_peak_gflops=20.0)
    folder = new_record([run], tmp_path / "records")
    assert not {"model_flops", "bf16_peak_gflops"} & set((folder / "submission.json").read_text().split('"'))
    assert read_submission(folder / "submission.json").seed_results[42].model_flops is None
    assert "## Machine" not in (folder / "README.md").read_text()


def test_model_flops_are_told_alike_in_both_logs(tmp_path, run):
    replace_in(calibrated(run) / "train.log", "model_flops:2.9500e+11", "model_flops:2.9400e+11")
    assert_refused(tmp_path, [run], "the model FLOPs", "2.9500e+11 (log.jsonl), 2.9400e+11 (train.log)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_of_peak": 0.26}, ".share_of_peak must be model_flops a second over the bf16 peak, 0.25, got 0.26"),
        ({"bf16_peak_gflops": 50.0}, ".share_of_peak must be model_flops a second over the bf16 peak, 0.2, got 0.25"),
        (
            {"fp32_peak_gflops": None},
            " must be told with all of bf16_peak_gflops, fp32_peak_gflops, model_flops, share",
        ),
        ({"model_flops": 0.0}, ": model_flops must be float > 0.0, got 0.0"),
    ],
)
def test_a_calibration_that_contradicts_itself_is_named(tmp_path, run, changes, message):
    path = new_record([calibrated(run)], tmp_path / "records") / "submission.json"
    tree = json.loads(path.read_text())
    tree["seed_results"]["42"] |= changes
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError) as refusal:
        read_submission(path)
    assert str(refusal.value).startswith(f"{path}: seed_results.42{message}")


@pytest.mark.parametrize(("flops", "holds"), [(5e13, "yes"), (5.1e13, "no")])
def test_a_budget_of_model_flops_is_a_rule_of_the_pocket(tmp_path, run, flops, holds):
    facts = json.loads((run / "recipe.json").read_text())
    pocket = facts["record"] | {"track": "track_pocket"}
    edit_json(calibrated(run, flops) / "recipe.json", record=pocket, train_seconds_cap=None)
    readme = (new_record([run], tmp_path / "records") / "README.md").read_text()
    assert f"| training within 5e+13 model FLOPs | {holds} |" in readme


def test_several_seeds_become_one_record(tmp_path):
    runs = [make_run(tmp_path, seed, bpb=bpb, model_bytes=size) for seed, bpb, size in SEEDS]
    folder = new_record(runs, tmp_path / "records")
    submission = read_submission(folder / "submission.json")
    assert submission.seeds == [1337, 42, 2024]
    assert submission.val_bpb == pytest.approx(2.02)
    assert submission.val_bpb_std == pytest.approx(0.02)
    assert (submission.bytes_model, submission.compliance.three_seeds) == (900, True)
    assert (folder / "model.bin").read_bytes() == (runs[0] / "model.bin").read_bytes()
    logs = [name for name in files_under(folder) if name.endswith(".log")]
    assert logs == ["train_seed1337.log", "train_seed2024.log", "train_seed42.log"]
    readme = (folder / "README.md").read_text()
    assert "2.020000 ± 0.020000" in readme and "n = 3" in readme
    for seed, bpb, size in SEEDS:
        assert f"| {seed} | " in readme and f"{bpb:.6f}" in readme and f"| {size} |" in readme
        command = f"torchrun --standalone --nproc_per_node=2 train_gpt.py --train.seconds 30 --train.seed {seed}\n"
        assert command in readme


SEEDS = [(1337, 2.00, 700), (42, 2.02, 900), (2024, 2.04, 800)]


def test_an_earlier_record_is_never_overwritten(tmp_path, run):
    names = [new_record([run], tmp_path / "records").name for _ in range(3)]
    assert names == ["2026-11-21_Demo", "2026-11-21_Demo-2", "2026-11-21_Demo-3"]


def test_by_default_it_lies_beside_runs(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_record([Path("runs/demo-42")]) == Path("records/track_non_record_16mb/2026-11-21_Demo")


def test_the_counted_code_runs_from_inside_the_folder(tmp_path, run):
    folder = new_record([run], tmp_path / "records")
    done = subprocess.run([sys.executable, "train_gpt.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "the code of the record\n"


def test_requirements_are_the_repositorys_lines():
    lines = runtime_requirements("\nfrom constriction import stream\n").splitlines()
    assert [line[:5] for line in lines] == ["torch", "numpy", "sente", "zstan", "safet", "const"]
    assert runtime_requirements("# constriction\n").splitlines() == lines[:-1]
    assert set(lines) <= set((ROOT / "requirements.txt").read_text().splitlines())


def test_compliance_is_what_the_figures_say(tmp_path):
    def compliance(name: str, **figures):
        folder = new_record([make_run(tmp_path / name, 42, **figures)], tmp_path / "records")
        return read_submission(folder / "submission.json").compliance

    assert compliance("under").train_under_cap is True
    # 40 steps in 30.7 s: the step that crossed the cap is within an average step of it; in 31 s it is not.
    assert compliance("crossing", train_seconds=30.7).train_under_cap is True
    assert compliance("over", train_seconds=31.0).train_under_cap is False
    no_cap = make_run(tmp_path / "no_cap", 42)
    edit_json(no_cap / "recipe.json", train_seconds_cap=None)
    assert read_submission(new_record([no_cap], tmp_path / "r") / "submission.json").compliance.train_under_cap is None


def test_a_small_budget_shows_in_compliance(tmp_path, run):
    edit_json(run / "recipe.json", budget=500)
    edit_json(run / "ledger.json", budget=500)
    assert not read_submission(new_record([run], tmp_path) / "submission.json").compliance.artifact_under_budget


@pytest.mark.parametrize(
    ("title", "name"),
    [("Demo", "Demo"), ("int5 int6 stack", "Int5Int6Stack"), ("../../up", "Up"), ("a/b 1.15", "AB1.15"), ("v.", "V")],
)
def test_titles_become_folder_names(title, name):
    assert folder_title(title) == name


def assert_refused(tmp_path: Path, runs: list[Path], *fragments: str) -> None:
    """One line with all of `fragments`, and no file anywhere under the destination."""
    with pytest.raises(UserError) as refusal:
        new_record(runs, tmp_path / "records")
    message = str(refusal.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    assert not (tmp_path / "records").exists() or not list((tmp_path / "records").glob("*/*"))


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        (["train.log"], "train_gpt.py with RUN_ID=demo-42"),
        (["log.jsonl"], "train_gpt.py with RUN_ID=demo-42"),
        (["recipe.json"], "train_gpt.py with RUN_ID=demo-42"),
        (["code/train_gpt.py"], "train_gpt.py with RUN_ID=demo-42"),
        (["train_gpt_readable.py"], "train_gpt.py with RUN_ID=demo-42"),
        (["model.bin"], "weights.safetensors is missing; train_gpt.py with RUN_ID=demo-42"),
        (["ledger.json"], "python -m compress {run}"),
        (["score.json"], "score.json is missing; python -m eval {run}"),
        (["model.bin", "score.json"], "weights.safetensors is missing"),
    ],
)
def test_an_unfinished_run_names_the_command_that_finishes_it(tmp_path, run, missing, command):
    for name in missing:
        (run / name).unlink()
    assert_refused(tmp_path, [run], command.format(run=run))


def test_each_stage_after_training_is_named(tmp_path, run):
    (run / "model.bin").unlink()
    (run / "weights.safetensors").touch()
    assert_refused(tmp_path, [run], "codes.safetensors is missing", f"python -m quantize {run} makes it")
    (run / "codes.safetensors").touch()
    assert_refused(tmp_path, [run], "model.bin is missing", f"python -m compress {run} makes it")


def test_no_runs_and_no_such_run(tmp_path, run):
    assert_refused(tmp_path, [], "at least 1 run folder, got none")
    assert_refused(tmp_path, [run.parent / "demo-43"], "demo-43", "nearest: demo-42")


@pytest.mark.parametrize("key", ["record", "overrides", "fingerprint", "seed", "recipe", "started", "budget"])
def test_a_missing_key_of_the_recipe_is_named(tmp_path, run, key):
    facts = json.loads((run / "recipe.json").read_text())
    del facts[key]
    (run / "recipe.json").write_text(json.dumps(facts))
    assert_refused(tmp_path, [run], "recipe.json", f"{key} is missing")


@pytest.mark.parametrize(
    ("file", "changes", "fragments"),
    [
        ("recipe.json", {"train_seconds_cap": "30"}, ["train_seconds_cap must be float | null, got '30'"]),
        ("recipe.json", {"started": "yesterday"}, ["started must be a time like 2026-11-21T23:27:08, got 'yesterday'"]),
        ("recipe.json", {"record": {"title": "x"}}, ["record.blurb is missing"]),
        ("recipe.json", {"seed": 43}, ["the seed", "43 (recipe.json)", "42 (log.jsonl)", "42 (train.log)"]),
        ("recipe.json", {"fingerprint": "f0"}, ["the fingerprint", "f0 (recipe.json)"]),
        ("recipe.json", {"budget": 1000}, ["the budget", "1000 (recipe.json), 16000000 (ledger.json)"]),
        ("score.json", {"val_bpb": 1.9}, ["val_bpb", "1.90000000 (score.json), 2.00000000 (log.jsonl)"]),
        ("score.json", {"val_loss": 1.9}, ["val_loss", "1.90000000 (score.json)", "(train.log)"]),
        ("score.json", {"stride": 32}, ["stride", "32 (score.json), 64 (log.jsonl)", "RUN_ID=demo-42"]),
        ("score.json", {"artifact_sha256": "0" * 64}, ["SHA-256", "0" * 64 + " (score.json)", "python -m eval"]),
        ("score.json", {"artifact_bytes": 701}, ["700 (model.bin)", "701 (score.json)"]),
        ("score.json", {"val_bpb": None}, ["val_bpb must be float, got None"]),
        ("ledger.json", {"model_total": 701}, ["701 (ledger.json)", "700 (train.log)"]),
        ("ledger.json", {"header": 31}, ["700 (model.bin)", "701 (its entries)"]),
        ("ledger.json", {"code_total": 5}, ["the code's bytes", "5 (ledger.json)"]),
        ("ledger.json", {"total": 7}, ["the total bytes", "7 (ledger.json)"]),
        ("ledger.json", {"code": {}}, ["the bytes of train_gpt.py", f"{len(CODE)} (code/), nothing (ledger.json)"]),
        ("ledger.json", {"code": {"train_gpt.py": len(CODE), "b.py": 1}}, ["one file of code", "got b.py as well"]),
    ],
)
def test_files_that_disagree(tmp_path, run, file, changes, fragments):
    edit_json(run / file, **changes)
    assert_refused(tmp_path, [run], *fragments)


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ("Serialized model zstd22: 700", "Serialized model zstd22: 699", ["700 (model.bin)", "699 (train.log)"]),
        ("Serialized model", "Serialised model", ["the artifact's bytes", "nothing (train.log)"]),
        ("Code size: ", "Code size: 1", ["the code's bytes", "(train.log)"]),
        ("Total submission size zstd22: ", "Total submission size zstd22: 1", ["the total bytes"]),
        ("val_bpb:2.00000000", "val_bpb:2.00000001", ["val_bpb", "2.00000001 (train.log)"]),
        ("seed:42", "seed:41", ["the seed", "41 (train.log)"]),
        ("step:40/20000 val_loss", "step:39/20000 val_loss", ["the number of steps", "39 (train.log)"]),
    ],
)
def test_a_log_that_disagrees(tmp_path, run, old, new, fragments):
    replace_in(run / "train.log", old, new)
    assert_refused(tmp_path, [run], *fragments)


def test_events_that_are_missing_or_disagree(tmp_path, run):
    good = (run / "log.jsonl").read_text()
    for event in ("start", "trained", "validation", "final"):
        edit_events(run, event, drop=True)
        assert_refused(tmp_path, [run], f"log.jsonl must tell of {event!r}", "RUN_ID=demo-42 repeats")
        (run / "log.jsonl").write_text(good)
    edit_events(run, "final", val_bpb=1.0)
    assert_refused(tmp_path, [run], "1.00000000 (log.jsonl)")
    (run / "log.jsonl").write_text(good)
    edit_events(run, "start", code_sha256="0" * 64)
    assert_refused(tmp_path, [run], "the code's SHA-256", "0" * 64)
    for broken in ('{"event": "start"\n', "[]\n", '{"step": 3}\n', '{"event": "final", "val_bpb": NaN}\n'):
        (run / "log.jsonl").write_text(broken)
        assert_refused(tmp_path, [run], "log.jsonl line 1")


def test_a_resumed_run_counts_from_its_last_start(tmp_path, run):
    first = (run / "log.jsonl").read_text()
    replace_in(run / "log.jsonl", '"event": "start"', '"event": "resume"')
    edit_events(run, "resume", hardware="another machine")
    (run / "log.jsonl").write_text(first + (run / "log.jsonl").read_text())
    submission = read_submission(new_record([run], tmp_path / "records") / "submission.json")
    assert submission.hardware == "another machine"


def test_files_on_disk_that_are_not_the_counted_ones(tmp_path, run):
    (run / "code/train_gpt.py").write_text("print(1)\n")
    assert_refused(tmp_path, [run], "the bytes of train_gpt.py", "9 (code/)")


def test_a_helper_that_nobody_counts(tmp_path, run):
    (run / "code/table.bin").write_bytes(b"prior knowledge")
    assert_refused(tmp_path, [run], "a record ships one file of code, train_gpt.py, got table.bin as well")


def test_a_model_that_was_not_scored(tmp_path, run):
    model = bytearray((run / "model.bin").read_bytes())
    model[5] ^= 1
    (run / "model.bin").write_bytes(model)
    digest = hashlib.sha256(model).hexdigest()
    assert_refused(tmp_path, [run], "the artifact's SHA-256", f"{digest} (model.bin)", f"python -m eval {run}")


def test_runs_that_differ_in_more_than_the_seed(tmp_path, run):
    longer = make_run(tmp_path, 43, overrides=("--train.seconds", "60"))
    assert_refused(tmp_path, [run, longer], "overrides", "--train.seconds 30", "got --train.seconds 60")
    other_code = make_run(tmp_path, 44, code="print(2)\n")
    assert_refused(tmp_path, [run, other_code], "code (SHA-256)", source_hash(run / "code"), str(other_code))
    elsewhere = make_run(tmp_path, 45, hardware="8x NVIDIA H100")
    assert_refused(tmp_path, [run, elsewhere], "hardware", "8x NVIDIA H100")
    other = make_run(tmp_path, 46)
    edit_json(other / "recipe.json", recipe="baseline")
    assert_refused(tmp_path, [run, other], "recipe must be that of", "got baseline")


def test_the_spelling_of_the_seed_does_not_matter(tmp_path, run):
    other = make_run(tmp_path, 43)
    edit_json(other / "recipe.json", overrides=["--train.seed=43", "--train.seconds", "30"])
    assert read_submission(new_record([run, other], tmp_path / "r") / "submission.json").seeds == [42, 43]


def test_the_same_seed_twice(tmp_path, run):
    again = make_run(tmp_path / "again", 42)
    assert_refused(tmp_path, [run, again], "seed of its own", "got 42 in both", str(again))
    assert_refused(tmp_path, [run, run], "got 42 in both")


@pytest.mark.parametrize(
    ("field", "value", "fragment"),
    [
        ("track", "track_10min_16MB", "nearest: track_10min_16mb"),
        ("track", "../../etc", "track must be a name like"),
        ("title", "???", "record.title must hold a letter"),
        ("blurb", "two\nlines", "blurb must be one line of text"),
        ("author", " ", "author must be one line of text, got ' '"),
        ("github_id", "@sixteen", "github_id must be str matching"),
    ],
)
def test_record_fields_that_no_submission_takes(tmp_path, run, field, value, fragment):
    record = json.loads((run / "recipe.json").read_text())["record"]
    edit_json(run / "recipe.json", record=record | {field: value})
    assert_refused(tmp_path, [run], fragment)


def test_a_full_disk_leaves_nothing(tmp_path, run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("records.folder.os.rename", full)
    assert_refused(tmp_path, [run], "cannot write", "2026-11-21_Demo", "No space left on device")


def test_a_place_that_is_no_folder(tmp_path, run):
    (tmp_path / "records").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        new_record([run], tmp_path / "records")


def test_the_command(tmp_path, run):
    def records(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "records", "new", *arguments, "--destination", str(tmp_path / "records")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = records(str(run))
    assert (done.returncode, Path(done.stdout.strip()).name, done.stderr) == (0, "2026-11-21_Demo", "")
    failed = records(str(run), str(run))
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
    assert failed.stderr.startswith("error: each run of a record needs a seed of its own")


def test_records_need_no_torch():
    code = "import sys; from records.new import new_record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture(scope="module")
def submission_text(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("submission")
    runs = [make_run(place, seed, bpb=bpb, model_bytes=size) for seed, bpb, size in SEEDS]
    return (new_record(runs, place / "records") / "submission.json").read_text()


def test_what_is_written_is_read_and_written_the_same(tmp_path, submission_text):
    (tmp_path / "a.json").write_text(submission_text)
    write_submission(tmp_path / "b.json", read_submission(tmp_path / "a.json"))
    assert (tmp_path / "b.json").read_text() == submission_text
    keys = list(json.loads(submission_text))
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("bytes_code", -1, "bytes_code must be int >= 0, got -1"),
        ("bytes_code", "12", "bytes_code must be int, got '12'"),
        ("bytes_code", 1.5, "bytes_code must be int, got 1.5"),
        ("bytes_code", True, "bytes_code must be int, got True"),
        ("bytes_total", 1, "bytes_total must be bytes_code + bytes_model, "),
        ("bytes_model", 899, "bytes_model must be the largest artifact, 900, got 899"),
        ("val_bpb", 2.03, "val_bpb must be the mean of the seeds, 2.02, got 2.03"),
        ("val_loss", 3.0, "val_loss must be the mean of the seeds"),
        ("val_bpb_std", 0.01, "val_bpb_std must be the sample deviation of the seeds, 0.02"),
        ("val_bpb_std", None, "val_bpb_std must be the sample deviation of the seeds"),
        ("val_loss_std", -0.1, "val_loss_std must be float >= 0.0, got -0.1"),
        ("date", "2026-13-21", "date must be a date like 2026-11-21, got '2026-13-21'"),
        ("date", "21 November", "date must be a date like 2026-11-21, got '21 November'"),
        ("seeds", [42, 1337], "seeds must be those of seed_results, [42, 1337, 2024], got [42, 1337]"),
        ("seeds", [42, 42, 1337, 2024], "seeds must be those of seed_results"),
        ("seeds", [], "seeds must be those of seed_results"),
        ("seed_results", {}, "seeds must be those of seed_results, []"),
        ("seed_results", {"x": {}}, "seed_results.x: val_loss is missing"),
        ("seed_results.42.steps", 0, "seed_results.42: steps must be int >= 1, got 0"),
        ("seed_results.42.val_bpb", 2.5, "val_bpb must be the mean of the seeds"),
        ("seed_results.42.note", "x", "seed_results.42: note is no field of it"),
        ("seed_results.42.artifact_sha256", "abc", "seed_results.42: artifact_sha256 must be"),
        ("evaluation.bytes", 2400, "evaluation.bytes must be what the scores of seed 1337 imply, 2500, within 0.02 %"),
        ("evaluation.implied_bytes", 2501.0, "evaluation.implied_bytes must be tokens x val_loss"),
        ("evaluation.stride", None, "evaluation must be told by window and stride for sliding windows, got ['window']"),
        ("compliance.train_under_cap", False, "compliance.train_under_cap must be True by the figures, got False"),
        ("compliance.artifact_under_budget", False, "compliance.artifact_under_budget must be True"),
        ("compliance.eval_under_600s", False, "compliance.eval_under_600s must be True"),
        ("compliance.three_seeds", False, "compliance.three_seeds must be True"),
        ("compliance.no_slot", True, "compliance.no_slot is no field of it"),
        ("track", "main", "track must be a name like track_10min_16mb"),
        ("github_id", "", "github_id must be str matching"),
        ("blurb", "", "blurb must be one line of text, got ''"),
        ("bytes_totl", 1, "bytes_totl is no field of it; nearest: bytes_total"),
        ("code_sha256", "A" * 64, "code_sha256 must be str matching"),
        ("budget", 10**400, "budget must be int <= 1000000000000000"),
    ],
)
def test_a_planted_field_is_named(tmp_path, submission_text, path, value, message):
    tree = json.loads(submission_text)
    *parents, last = path.split(".")
    place = tree
    for name in parents:
        place = place[name]
    place[last] = value
    (tmp_path / "submission.json").write_text(json.dumps(tree))
    with pytest.raises(UserError) as refusal:
        read_submission(tmp_path / "submission.json")
    assert str(refusal.value).startswith(f"{tmp_path}/submission.json: {message}")


def test_a_missing_field_is_named(tmp_path, submission_text):
    for field in json.loads(submission_text):
        tree = json.loads(submission_text)
        del tree[field]
        (tmp_path / "submission.json").write_text(json.dumps(tree))
        with pytest.raises(UserError, match=f"submission.json: {field} is missing$"):
            read_submission(tmp_path / "submission.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"budget": 16000000', '"budget": NaN', "numbers must be finite, got NaN"),
        (
            '"train_seconds_cap": 30.0',
            '"train_seconds_cap": 1e999',
            "train_seconds_cap must be a finite number, got inf",
        ),
        ('"budget": 16000000', '"budget": 1, "budget": 16000000', "budget must stand there once, got it 2 times"),
        ('"budget": 16000000', '"budget": ', "must be JSON"),
        ("{", "[" * 100_000, "must be JSON"),
    ],
)
def test_what_is_no_submission_at_all(tmp_path, submission_text, old, new, message):
    (tmp_path / "submission.json").write_text(submission_text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_submission(tmp_path / "submission.json")


def test_a_submission_that_is_a_list_or_not_there(tmp_path):
    (tmp_path / "submission.json").write_text("[]")
    with pytest.raises(UserError, match=r"the whole must be object, got \[\]"):
        read_submission(tmp_path / "submission.json")
    with pytest.raises(UserError, match="a submission cannot be read"):
        read_submission(tmp_path / "none.json")


def test_writing_checks_as_reading_does(tmp_path, submission_text):
    path = tmp_path / "submission.json"
    path.write_text(submission_text)
    good = read_submission(path)
    wrong = {
        "train_seconds_cap": math.nan,
        "bytes_total": 1,
        "val_loss": float("inf"),
        "date": "tomorrow",
        "compliance": judged([], 10**9, None, 1),
    }
    for field, value in wrong.items():
        with pytest.raises(UserError, match=f"submission.json: {field}"):
            write_submission(path, msgspec.structs.replace(good, **{field: value}))
    assert path.read_text() == submission_text


def test_mutated_submissions_end_in_one_line(tmp_path, submission_text):
    draw = random.Random(0)
    path, refused = tmp_path / "submission.json", 0
    for _ in range(400):
        data = bytearray(submission_text.encode())
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.choice(b'0123456789-"{}[],:eN.\\ \xff')
        path.write_bytes(data)
        try:
            read_submission(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 200


def test_deviations_are_the_samples():
    assert mean_and_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_std([1.5]) == (1.5, None)
    # The organisers' baseline: 151.5 MB of text in 62.0 M tokens.
    assert implied_bytes(2.07269931, 1.22436570, 62_021_632) == pytest.approx(151.48e6, rel=1e-3)


OURS = """\
recipe demo (fingerprint 5bf6942c7ab17878) seed:1337 run:runs/t1
Python 3.11.7 PyTorch 2.13.0+cpu on 2 CPU cores (AVX512), 1 rank(s)
code sha256:038f5f2bc8229af49f8e6a034585f82d1c1a90d1df8d277311547055e3e1796e
model_params:1549901 compute:fp32 bf16_peak:153.4 fp32_peak:270.1 GFLOP/s a rank
embedding  AdamW        0.03   0.01       2     262,144  embed.tokens.weight
step:1/20000 train_loss:6.9308 train_time:1350ms step_avg:1350.35ms grad_norm:0.442 lr_multiplier:1.000
step:40/20000 train_loss:4.5404 train_time:26362ms step_avg:659.04ms grad_norm:0.871 lr_multiplier:0.230
stopping_early: wallclock_cap train_time:32604ms step:43/20000
tokens:176128 epochs:0.04 tok/s:5402 model_flops:1.7800e+12 share_of_bf16_peak:0.356
peak memory allocated: 699 MiB
step:43/20000 val_loss:4.5621 val_bpb:2.3010 train_time:32604ms step_avg:758.22ms weights:last_weights
step:43/20000 val_loss:4.5995 val_bpb:2.3198 train_time:32604ms step_avg:758.22ms weights:average_of_43
quantized 46 tensors by the plan of demo
train_gpt.py                                                            6,053    0.5%
Serialized model zstd22: 1130750 bytes
Code size: 188370 bytes
Total submission size zstd22: 1319120 bytes
sliding window=512 stride=64 val_loss:4.59894298 val_bpb:2.31926891 tokens:173765 bytes:497100 implied_bytes:497100.0 \
eval_time:48183ms
final_zstd22_roundtrip val_loss:4.5989 val_bpb:2.3193 eval_time:48183ms
final_zstd22_roundtrip_exact val_loss:4.59894298 val_bpb:2.31926891
sample from model.bin: 'My fellow citizens, the seed:7 of liberty'
"""

# records/track_10min_16mb/2026-03-17_NaiveBaseline/train.log, openai/parameter-golf; and a line of its source.
MARCH = """\
    log0(f"final_int8_zlib_roundtrip_exact val_loss:{q_val_loss:.8f} val_bpb:{q_val_bpb:.8f}")
seed:1337
warmup_step:20/20
step:0/20000 val_loss:6.9370 val_bpb:4.0978 train_time:0ms step_avg:0.01ms
step:13750/20000 train_loss:1.9910 train_time:598726ms step_avg:43.54ms
step:13780/20000 val_loss:2.0606 val_bpb:1.2172 train_time:600038ms step_avg:43.54ms
stopping_early: wallclock_cap train_time:600038ms step:13780/20000
peak memory allocated: 10184 MiB reserved: 10200 MiB
Serialized model: 67224983 bytes
Code size: 47642 bytes
Total submission size: 67272625 bytes
Serialized model int8+zlib: 15815847 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)
Total submission size int8+zlib: 15863489 bytes
final_int8_zlib_roundtrip val_loss:2.0727 val_bpb:1.2244 eval_time:1401ms
final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570
"""

APRIL = """\
  seed: 42
0/20000 val_loss: 9.0047 val_bpb: 3.4860
500/20000 train_loss: 3.3964 train_time: 0.9m tok/s: 7669991
4703/20000 val_loss: 2.3211 val_bpb: 1.0607
stopping_early: wallclock_cap train_time: 596137ms step: 4703/20000
peak memory allocated: 40,019 MiB reserved: 44090 MiB
diagnostic pre-quantization post-ema val_loss:2.32112568 val_bpb:1.06066112 eval_time:18334ms
Serialized model quantized+pergroup: 15951365 bytes
Total submission size quantized+pergroup: 15,989,499 bytes
diagnostic quantized val_loss:2.34613048 val_bpb:1.07199665
quantized_ttt_phased val_loss:2.31538446 val_bpb:1.05803761 eval_time:591446ms
total_eval_time:591.4s
"""


def test_our_log():
    log = parse_log(OURS)
    assert log.seed == 1337
    assert [step.step for step in log.steps] == [1, 40]
    assert log.steps[1].train_loss == 4.5404
    assert log.steps[1].train_seconds == pytest.approx(26.362)
    assert log.steps[1].step_avg_ms == 659.04
    assert log.validations[-1] == LoggedValidation(43, 20000, 4.5995, 2.3198, pytest.approx(32.604))
    assert log.stop == LoggedStop("wallclock_cap", 43, 20000, pytest.approx(32.604))
    assert (log.machine, log.work) == (LoggedMachine(153.4, 270.1), LoggedWork(1.78e12, 0.356))
    assert log.peak_memory_mib == 699
    assert [log.size(what) for what in ("model", "code", "total")] == [1130750, 188370, 1319120]
    labels = ["sliding window=512 stride=64", "final_zstd22_roundtrip", "final_zstd22_roundtrip_exact"]
    assert [score.label for score in log.scores] == labels
    assert log.scores[0].eval_seconds == pytest.approx(48.183)
    assert log.final == LoggedScore("final_zstd22_roundtrip_exact", 4.59894298, 2.31926891, None)


def test_the_competitions_first_grammar():
    log = parse_log(MARCH)
    assert (log.seed, log.peak_memory_mib, len(log.steps), len(log.validations)) == (1337, 10184, 1, 2)
    assert log.stop == LoggedStop("wallclock_cap", 13780, 20000, pytest.approx(600.038))
    assert log.sizes[0] == LoggedSize("model", "", 67224983)
    assert [log.size(what) for what in ("model", "code", "total")] == [15815847, 47642, 15863489]
    assert (log.final.val_loss, log.final.val_bpb) == (2.07269931, 1.22436570)
    assert len(log.scores) == 2
    assert (log.machine, log.work) == (None, None)


def test_the_competitions_later_grammar():
    log = parse_log(APRIL)
    assert (log.seed, log.peak_memory_mib) == (42, 40019)
    assert log.steps[0].train_seconds == pytest.approx(54)
    assert log.steps[0].step_avg_ms is None
    assert log.validations[-1] == LoggedValidation(4703, 20000, 2.3211, 1.0607, None)
    assert log.stop.train_seconds == pytest.approx(596.137)
    assert [log.size(what) for what in ("model", "code", "total")] == [15951365, None, 15989499]
    assert log.scores[0].label == "diagnostic pre-quantization post-ema"
    assert log.final == LoggedScore("quantized_ttt_phased", 2.31538446, 1.05803761, pytest.approx(591.446))
    assert log.total_eval_seconds == 591.4


def test_strange_logs_are_passed_over():
    empty = parse_log("")
    assert (empty.seed, empty.final, empty.stop, empty.size("model"), empty.steps) == (None, None, None, None, ())
    assert math.isnan(parse_log("step:3/9 train_loss:nan train_time:5ms step_avg:1ms").steps[0].train_loss)
    hostile = [
        "step:" + "9" * 5000 + "/9 train_loss:1.0",
        "Code size: ,, bytes",
        "step:٣/9 train_loss:1.0",
        "seed:" + "1" * 100,
        "x " * 200_000 + "val_loss:1",
        "total_eval_time:s",
    ]
    assert parse_log("\n".join(hostile)) == empty
