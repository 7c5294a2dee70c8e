"""Records: made from finished runs, judged, compared.

python -m records new runs/ID [runs/ID2 ...]   the record folder of finished runs that differ in their seed
python -m records check FOLDER ... [--json]    what a judge finds in any record folder, from reading alone
python -m records verify FOLDER --data DIR     what a judge finds in running it, without network or training text
python -m records compare A B                  whether A is better than B, by both rules
python -m records report FOLDER ...            one HTML page of curves, bytes, scores and findings, and its PNGs
python -m records curves [--track TRACK]       one figure of bits per byte over seconds for all records of a track
python -m records table                        the leaderboards of the READMEs, from the records themselves
python -m records rules [--write]              every rule of both judges, and what they cover
"""

import importlib
import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from records.compare import compare_records, read_side
from records.dynamic.rules import dynamic_rules_table, with_dynamic_rules
from records.dynamic.sandbox import SandboxLimits
from records.dynamic.verify import VerifyOptions, verify_record
from records.judge.coverage import judge_tables, with_judge_tables
from records.judge.finding import EXIT_NOT_READABLE, SEVERITIES, printable
from records.judge.judge import judge_path
from records.leaderboard import write_leaderboards
from records.new import new_record
from runtime.command import exit_with
from runtime.errors import UserError
from runtime.files import read_bytes, write_text


def new(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    destination: Path = Path("records"),
) -> None:
    """Writes a record folder from run folders of one recipe with different seeds, and prints where it lies.

    Args:
        runs: the run folders, runs/ID; the first one's model.bin goes into the record.
        destination: the folder that holds the tracks.
    """
    print(new_record(list(runs), destination))


def check(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    as_json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = False,
) -> int:
    """Judges record folders without running anything in them; one line a finding.

    Exit code: 0 clean, 1 doubtful, 2 invalid, 3 a folder cannot be read; the worst of all folders.

    Args:
        folders: record folders of the competition, of any age.
        as_json: prints one JSON document instead.
    """
    if not folders:
        raise UserError(
            "check takes at least 1 record folder, got none; for example records/track_pocket/2026-11-22_Name"
        )
    verdicts = [judge_path(folder) for folder in folders]
    if as_json:
        print(json.dumps([_tree(verdict) for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            print(printable(f"{verdict.folder}: {_word(verdict.exit_code)}"))
            for finding in verdict.findings:
                print(f"  {finding}")
    return max((verdict.exit_code for verdict in verdicts), default=0)


def verify(
    folder: tyro.conf.Positional[Path],
    data: Path,
    scorer: str | None = None,
    tokens: int = 16_384,
    artifact: str | None = None,
    tokenizer: Path | None = None,
    seconds: float = 600.0,
    memory_gib: float = 16.0,
    as_json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = False,
) -> int:
    """Runs a record without network, home or training text, and tests what it predicts.

    Exit code: 0 clean, 1 doubtful, 2 invalid, 3 not readable.

    Args:
        folder: the record folder.
        data: the data set's folder; validation shards, tokenizer and manifest are read.
        scorer: file.py:function that makes a scorer of the artifact (records/dynamic/verify.py); ours have one.
        tokens: how many tokens the tests ask the scorer for; from the whole split on, a stranger's score is repeated.
        artifact: name of the packed model in the folder, where it is not an usual one.
        tokenizer: a SentencePiece model elsewhere than beside the shards.
        seconds: that one process may take.
        memory_gib: that one process may use.
        as_json: prints one JSON document instead.
    """
    limits = SandboxLimits(seconds, int(memory_gib * 2**30))
    verification = verify_record(folder, data, VerifyOptions(scorer, tokens, artifact, tokenizer, limits))
    print(json.dumps(verification.as_tree(), indent=1) if as_json else "\n".join(verification.lines()))
    return verification.verdict.exit_code


def compare(
    a: tyro.conf.Positional[str],
    b: tyro.conf.Positional[str],
    unit: Literal["bpb", "nats"] = "bpb",
    bytes_per_token: float | None = None,
) -> None:
    """Whether A is better than B: the written rule (0.005 nats at p < 0.01) and the progression rule (p < 0.25).

    Args:
        a: the new record: a folder, or the scores of its seeds with commas between them.
        b: the record that it is measured against, likewise.
        unit: of scores that are given as numbers.
        bytes_per_token: of the tokenizer, which turns 0.005 nats into bits per byte where no record tells.
    """
    print(compare_records(read_side(a, unit), read_side(b, unit), bytes_per_token))


def report(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("report"),
    verified: tuple[Path, ...] = (),
) -> None:
    """Writes one HTML page about records, without any resource from outside, and its figures as PNG beside it.

    Args:
        folders: record folders of the competition, of any age.
        out: the folder for the page and the figures.
        verified: what `verify --json` printed, one file a folder; by default verify.json in the folder, if it is there.
    """
    # Drawing takes a second to import: whoever draws nothing does without.
    print(importlib.import_module("records.picture.report").write_report(list(folders), out, list(verified)))


def curves(track: str = "track_pocket", folder: Path = Path(__file__).parent) -> None:
    """Draws bits per byte over seconds of training of every record of a track into its curves.png.

    Args:
        track: the track's folder.
        folder: what holds the tracks.
    """
    print(importlib.import_module("records.picture.curves").write_curves(folder, track))


def table(folder: Path = Path(__file__).parent) -> None:
    """Writes the leaderboards into the README of a folder of tracks, those of its tracks and the one above it.

    Args:
        folder: what holds the tracks.
    """
    for path in write_leaderboards(folder):
        print(path)


def rules(write: tyro.conf.FlagCreatePairsOff[bool] = False) -> None:
    """Prints every rule of both judges and what they cover.

    Args:
        write: puts the tables into records/README.md instead.
    """
    if not write:
        print(f"{judge_tables()}\n\n{dynamic_rules_table()}")
        return
    readme = Path(__file__).parent / "README.md"
    text = read_bytes(readme, "the README of records").decode("utf-8")
    write_text(readme, with_dynamic_rules(with_judge_tables(text)))


def _tree(verdict) -> dict:
    findings = [finding.as_tree() for finding in verdict.findings]
    return {"folder": verdict.folder, "verdict": _word(verdict.exit_code), "findings": findings}


def _word(code: int) -> str:
    return "not readable" if code == EXIT_NOT_READABLE else ("clean", *SEVERITIES[1:])[code]


if __name__ == "__main__":
    commands = {"new": new, "check": check, "verify": verify, "compare": compare}
    commands |= {"report": report, "curves": curves, "table": table, "rules": rules}
    exit_with(lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="python -m records", description=__doc__))
