"""Are the validation documents really held out? By the manifest of the data folder and by the tokens themselves."""

from data.manifest import MANIFEST_NAME, Manifest, read_manifest
from data.splits import folded_hash, text_hash
from records.dynamic.rules import Probe, broken, probe_of
from records.dynamic.texts import JudgedText
from records.judge.finding import Finding
from runtime.errors import UserError

_HASHES = ("id", "sha256", "folded_sha256")


def documents_probe(text: JudgedText) -> Probe:
    """Whether a validation document, by id, text or folded text, stands in the training split."""
    path = text.folder / MANIFEST_NAME
    if not path.is_file():
        return _untold(f"{path} is not there")
    try:
        manifest = read_manifest(text.folder)
    except UserError as error:
        return _untold(str(error))
    findings = [*_listed_twice(manifest), *_decoded_in_train(text, manifest), *_lossy(manifest)]
    measured = f"{len(manifest.val.documents):,} held out, {len(manifest.train.documents):,} trained on, none in both"
    shared = any(finding.severity == "invalid" for finding in findings)
    return probe_of("held-out documents", measured.replace("none", "some") if shared else measured, findings)


def _untold(reason: str) -> Probe:
    finding = broken("manifest-missing", "nobody tells which documents were trained on", reason)
    return Probe("held-out documents", None, "no manifest", (finding,))


def _listed_twice(manifest: Manifest) -> list[Finding]:
    findings = []
    for kind in _HASHES:
        train = {getattr(document, kind): document.id for document in manifest.train.documents}
        twins = [
            (document.id, train[key])
            for document in manifest.val.documents
            if (key := getattr(document, kind)) in train
        ]
        if twins:
            message = f"{len(twins)} of {len(manifest.val.documents)} validation documents are in the training split"
            evidence = f"equal {kind}: {twins[0][0]} is {twins[0][1]}"
            findings.append(broken("leaked-documents", message, evidence))
    return findings


def _decoded_in_train(text: JudgedText, manifest: Manifest) -> list[Finding]:
    """The documents as the shards have them, whatever the manifest says of the validation split."""
    train = {document.sha256 for document in manifest.train.documents}
    train |= {document.decoded_sha256 for document in manifest.train.documents if document.decoded_sha256}
    folded = {document.folded_sha256 for document in manifest.train.documents}
    texts = text.texts()
    found = [number for number, held in enumerate(texts) if text_hash(held) in train or folded_hash(held) in folded]
    if not found:
        return []
    message = f"{len(found)} of {len(texts)} texts in the validation shards are in the training split"
    return [broken("leaked-documents", message, f"document {found[0]} of the validation shards")]


def _lossy(manifest: Manifest) -> list[Finding]:
    totals = manifest.val.totals
    if not totals.changed_documents:
        return []
    message = f"{totals.changed_documents} of {totals.documents} texts are not what their tokens decode to"
    evidence = (
        f"{totals.decoded_bytes:,} of {totals.raw_bytes:,} bytes, normalisation {manifest.tokenizer.normalisation}"
    )
    return [broken("lossy-text", message, evidence)]
