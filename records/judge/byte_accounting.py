"""Loss against bits per byte: both name a number of bytes, and the published validation split has 151.08 million.

    bytes = tokens x loss / ln 2 / bits per byte        bytes a token = loss / ln 2 / bits per byte

A wrong byte table shows as a ratio: the space before a word counted twice 1.1746 (or 1.1671), byte pieces counted as
three 1.0413, a division by ln 2 too much 0.6931.
"""

import math
import re
from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.record import FINEWEB_BYTES, FINEWEB_TOKENS, JudgedRecord
from records.judge.rules import found

TOLERANCE = 2e-4
_LN2 = math.log(2)
# Ratio of implied to true bytes -> (rule, what happened).
KNOWN_RATIOS = {
    1.1746: ("bytes-double-space", "the space before a word is counted twice"),
    1.1671: ("bytes-double-space", "the space before a word is counted twice"),
    1.0413: ("bytes-fallback-as-three", "byte pieces are counted as three bytes"),
    1.0895: (
        "bytes-table-of-other-text",
        "the byte table is not of the text that is scored (CaseOps with the plain table)",
    ),
    _LN2: ("bytes-ln2-twice", "the loss is divided by ln 2 twice"),
    1 / _LN2: ("bytes-ln2-twice", "the loss is not divided by ln 2"),
}
OLDER_EXPORT = 2.44235  # bytes a token of sp1024, before the shards were exported again
_RATIO_TOLERANCE = 2e-3
_SHARDS_OF_A_LEAK = 1_000


def judge_bytes(record: JudgedRecord) -> Iterator[Finding]:
    """The bytes that the claimed scores imply."""
    loss, bpb = record.claims.number("val_loss"), record.claims.number("val_bpb")
    if not loss or not bpb or loss <= 0 or bpb <= 0:
        return
    a_token = loss / _LN2 / bpb
    evaluation = {name: record.claims.evaluation.get(name) for name in ("tokens", "bytes")}
    if all(isinstance(value, int) and value > 0 for value in evaluation.values()):
        yield from _own_figures(a_token, evaluation["tokens"], evaluation["bytes"])
    if record.is_fineweb:
        yield from _published_split(record, a_token, evaluation["tokens"])


def judge_split(record: JudgedRecord) -> Iterator[Finding]:
    """Every token of the split is scored; shards and data preparation are those of the published split."""
    for facts in record.logs if record.is_fineweb else ():
        tokens, fraction = facts.number("val_tokens"), facts.number("document_fraction")
        if tokens and _is_part(record, tokens):
            said = f"{tokens:,.0f} validation tokens; the split has {min(FINEWEB_TOKENS.values()):,} with sp8192"
            yield found("split-partial", said, facts.at("val_tokens"), confidence="high", why=_OTHER_TOKENIZER)
        if fraction is not None and fraction < 1:
            yield found("split-partial", f"scores {fraction:g} of the documents", facts.at("document_fraction"))
        documents = facts.number("documents")
        if documents and documents < 50_000:
            yield found("split-partial", f"{documents:,.0f} of 50,000 documents", facts.at("documents"))
        shards = facts.number("train_shards")
        if shards and shards >= _SHARDS_OF_A_LEAK:
            yield _shards(shards, facts.at("train_shards"))


def judge_preparation(record: JudgedRecord) -> Iterator[Finding]:
    """A preparation script beside the record holds out all the validation documents."""
    for file in record.others.values():
        for match in re.finditer(r"--val[-_]docs\W[^\n]{0,80}?default\s*=\s*([\d_]{1,12})", file.text):
            if int(match[1]) < 50_000:
                line = file.text.count("\n", 0, match.start()) + 1
                said = f"holds out {match[1]} documents by default; the first 50,000 are validated on"
                why = "the command that made the shards may have said otherwise"
                yield found("validation-documents", said, f"{file.name}:{line}", None, "medium", why)


def judge_plausibility(record: JudgedRecord) -> Iterator[Finding]:
    """No language model of this size is below half a bit per byte."""
    bpb = record.claims.number("val_bpb")
    if bpb and 0 < bpb < 0.5:
        why = "caches that are no distributions have claimed such scores; text that repeats itself reaches them too"
        yield found("bpb-implausible", f"{bpb} bits per byte", "submission.json", None, "high", why)


_OTHER_TOKENIZER = "a tokenizer of long pieces would have fewer tokens too"


def _is_part(record: JudgedRecord, tokens: float) -> bool:
    """Too few tokens for any published tokenizer, and too few bytes by the record's own scores."""
    loss, bpb = record.claims.number("val_loss"), record.claims.number("val_bpb")
    size = tokens * loss / _LN2 / bpb if loss and bpb else 0.0
    return tokens < 0.98 * min(FINEWEB_TOKENS.values()) and size < 0.97 * FINEWEB_BYTES


def _shards(shards: float, place: str) -> Finding:
    why = "somebody may have made smaller shards"
    said = f"{shards:,.0f} training shards, where 80 are published: validation documents may be among them"
    return found("training-shards", said, place, None, "medium", why)


def _own_figures(a_token: float, tokens: int, size: int) -> Iterator[Finding]:
    """The submission's own tokens and bytes against its scores."""
    implied = tokens * a_token
    if abs(implied / size - 1) > TOLERANCE:
        said = f"the scores imply {implied:,.0f} bytes, evaluation.bytes is {size:,} ({implied / size:.4f} times)"
        yield found("loss-bpb-contradict", said, "submission.json evaluation")


def _published_split(record: JudgedRecord, a_token: float, tokens: int | None) -> Iterator[Finding]:
    """The bytes a token, against those of the published tokenizers or of the tokens that the log counts."""
    logged = [
        (facts.number("val_tokens"), facts.at("val_tokens")) for facts in record.logs if facts.number("val_tokens")
    ]
    count, place = logged[-1] if logged else (tokens, "submission.json")
    if count and not _is_part(record, count):
        yield from _judged(count * a_token / FINEWEB_BYTES, f"{count * a_token:,.0f} bytes implied", place)
        return
    known = {name: FINEWEB_BYTES / size for name, size in FINEWEB_TOKENS.items()}
    ratios = {name: a_token / true for name, true in known.items()}
    if any(abs(ratio - 1) <= 5 * TOLERANCE for ratio in ratios.values()):
        return
    said = f"{a_token:.4f} bytes a token implied"
    named = [name for name in ratios if _is_vocabulary(record, name)]
    for name in named:
        yield from _judged(ratios[name], f"{said}, {known[name]:.4f} with {name}", place)
    if not named:
        why = "the log does not count its tokens and the tokenizer is not one of the published"
        yield found("bytes-implied", f"{said}, which no published tokenizer has", place, "note", "low", why)


def _judged(ratio: float, said: str, place: str) -> Iterator[Finding]:
    """A ratio of implied to true bytes, by name where it is a known failure."""
    if abs(ratio - 1) <= TOLERANCE:
        return
    if abs(ratio * FINEWEB_BYTES / FINEWEB_TOKENS["sp1024"] - OLDER_EXPORT) < 2e-3 or abs(ratio - 1.0310) < 3e-4:
        yield found("bytes-other-split", f"{said}: the older export of the split ({ratio:.4f} times)", place, "note")
        return
    for known, (rule, reason) in KNOWN_RATIOS.items():
        if abs(ratio / known - 1) <= _RATIO_TOLERANCE:
            yield found(
                rule, f"{said}: {ratio:.4f} times the split's 151.08 M; {reason}", place, None, "high", _WHY_RATIO
            )
            return
    if abs(ratio - 1) > 0.2:
        yield found("bytes-other-split", f"{said}: {ratio:.4f} times the split's 151.08 M", place)
    else:
        yield found("bytes-implied", f"{said}: {ratio:.4f} times the split's 151.08 M, 0.02 % allowed", place)


_WHY_RATIO = "told from the ratio alone"


def _is_vocabulary(record: JudgedRecord, name: str) -> bool:
    """Whether submission, logs or folder name this tokenizer."""
    size, _, kind = name.partition(" ")
    said = " ".join([record.folder.name, record.claims.text("name"), record.claims.text("blurb")])
    said += " ".join(
        facts.settings.get("tokenizer_path", "") + " vocab" + facts.settings.get("vocab_size", "")
        for facts in record.logs
    )
    if record.script and f"fineweb_{size[2:]}_bpe" in record.script.text:
        said += size
    caseops = "caseops" in said.lower()
    return bool(re.search(rf"(sp|_|vocab) ?-?{size[2:]}\b", said, re.IGNORECASE)) and caseops == bool(kind)
