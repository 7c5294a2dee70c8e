"""Proves a data set again from its files: hashes, ids, texts, bytes, and that nothing stands in both splits.

With the identity normalisation the texts' hashes are recomputed from the tokens themselves, so the proof does not rest
on the manifest's word; a text that the normalisation changed is compared with the hash of its decoded form.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor

from data.build import totals_of
from data.bytecount import ByteTable
from data.corpus import Document, in_hash_order, split_of
from data.encode import charge_document
from data.manifest import DocumentEntry, Manifest, SplitEntry, read_manifest
from data.shards import check_ids, open_shard, split_in_name
from data.splits import folded_hash, text_hash
from data.tokenizer import BOS_ID, load_tokenizer
from runtime.errors import UserError
from runtime.files import sha256_of


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found; the data set is sound when `findings` is empty."""

    folder: Path
    manifest: Manifest
    findings: list[str] = field(default_factory=list)  # one line each
    proved_documents: int = 0  # whose text was recovered from the tokens and hashes to the manifest's raw text


def check_dataset(folder: str | Path) -> CheckReport:
    """Recomputes everything that the manifest of a built data set says.

    Raises UserError when there is no manifest to check against; every other fault is a finding.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    findings = [*_check_names(folder, manifest), *_check_documents_listed(manifest), *_check_disjoint(manifest)]
    tokenizer, faults = _checked_tokenizer(folder, manifest)
    findings += faults
    proved = 0
    for split, entry in manifest.splits():
        ids, faults = _checked_stream(folder, entry, manifest.tokenizer.vocab_size)
        findings += faults
        if tokenizer is not None and ids is not None:
            count, faults = _check_split_texts(split, entry, ids, tokenizer)
            proved += count
            findings += faults
    return CheckReport(folder, manifest, findings, proved)


def _check_names(folder: Path, manifest: Manifest) -> list[str]:
    listed = {shard.name for _, entry in manifest.splits() for shard in entry.shards}
    # An extra shard would be trained or scored on, whatever the manifest says.
    extra = sorted(path.name for path in folder.iterdir() if split_in_name(path) and path.name not in listed)
    wrong = [
        shard.name
        for split, entry in manifest.splits()
        for shard in entry.shards
        if split_in_name(folder / shard.name) != split
    ]
    return [f"{name} is a shard that the manifest does not know" for name in extra] + [
        f"{name} is listed for the other split than its name says" for name in wrong
    ]


def _check_documents_listed(manifest: Manifest) -> list[str]:
    """The split rule, the hash order, and ids that stand once."""
    findings = []
    one_in = manifest.options.val_one_in
    for split, entry in manifest.splits():
        ids = [document.id for document in entry.documents]
        if ids != [document.id for document in in_hash_order([Document(name, "") for name in ids])]:
            findings.append(f"the {split} documents are not in hash order")
        if len(set(ids)) != len(ids):
            findings.append(f"the {split} documents hold an id twice")
        if manifest.options.split_field is None:
            findings += [
                f"document {name} belongs to the other split" for name in ids if split_of(name, one_in) != split
            ]
    return findings


def _check_disjoint(manifest: Manifest) -> list[str]:
    findings = []
    for kind in ("id", "sha256", "folded_sha256"):
        in_val = {getattr(document, kind): document.id for document in manifest.val.documents}
        for document in manifest.train.documents:
            if (twin := in_val.get(getattr(document, kind))) is not None:
                findings.append(f"train document {document.id} stands in val as {twin}: equal {kind}")
    return findings


def _checked_tokenizer(folder: Path, manifest: Manifest) -> tuple[SentencePieceProcessor | None, list[str]]:
    listed = manifest.tokenizer
    path = folder / listed.name
    try:
        tokenizer = load_tokenizer(path)
        ByteTable.from_tokenizer(tokenizer, listed.vocab_size)
    except UserError as error:
        return None, [str(error)]
    if sha256_of(path) != listed.sha256:
        return tokenizer, [f"{listed.name} has another SHA-256 than the manifest says"]
    return tokenizer, []


def _checked_stream(folder: Path, entry: SplitEntry, vocab_size: int) -> tuple[np.ndarray | None, list[str]]:
    """All token ids of a split, uint16, or None when they cannot all be read; and what is wrong with its shards."""
    findings, parts = [], [np.empty(0, dtype=np.uint16)]
    for listed in entry.shards:
        path = folder / listed.name
        try:
            shard = open_shard(path)
            check_ids(shard, vocab_size, path)
        except UserError as error:
            findings.append(str(error))
            continue
        if len(shard) != listed.tokens:
            findings.append(f"{listed.name} holds {len(shard)} tokens, the manifest says {listed.tokens}")
        if sha256_of(path) != listed.sha256:
            findings.append(f"{listed.name} has another SHA-256 than the manifest says")
        parts.append(shard)
    whole = len(parts) == 1 + len(entry.shards)
    return np.concatenate(parts) if whole else None, findings


def _check_split_texts(
    split: str, entry: SplitEntry, ids: np.ndarray, tokenizer: SentencePieceProcessor
) -> tuple[int, list[str]]:
    """Decodes every document of the stream; returns how many raw texts it recovered, and what does not agree."""
    table = ByteTable.from_tokenizer(tokenizer, tokenizer.get_piece_size())
    findings = []
    proved = charged = start = 0
    for document in entry.documents:
        row = ids[start : start + document.tokens]
        start += document.tokens
        if len(row) == 0 or row[0] != BOS_ID or (row[1:] == BOS_ID).any():
            findings.append(f"{split} document {document.id}: its tokens must be one BOS and text")
            continue
        text = tokenizer.decode(row[1:].tolist())
        counted = charge_document(row, table)
        charged += counted
        findings += [f"{split} document {document.id}: {fault}" for fault in _faults_of_text(document, text, counted)]
        proved += document.decoded_sha256 is None and text_hash(text) == document.sha256
    if start != len(ids):
        findings.append(f"the {split} shards hold {len(ids)} tokens, the documents of the manifest {start}")
    if totals_of(entry.documents, charged) != entry.totals:
        findings.append(f"the {split} totals of the manifest are not the sums over its documents")
    return proved, findings


def _faults_of_text(document: DocumentEntry, text: str, charged: int) -> list[str]:
    faults = []
    size = len(text.encode())
    if text_hash(text) != (document.decoded_sha256 or document.sha256):
        faults.append("its tokens decode to another text than the manifest's")
    if document.decoded_sha256 is None and folded_hash(text) != document.folded_sha256:
        faults.append("its folded text has another SHA-256 than the manifest says")
    if size != document.decoded_bytes or charged != size - text.startswith(" "):
        faults.append(f"{charged} bytes are charged, {size} decoded, the manifest says {document.decoded_bytes}")
    return faults
