"""Sizes: on disk, in submission.json, in the logs; the code as it is shipped and as it is claimed."""

from collections.abc import Iterator
from dataclasses import dataclass

from records.judge.finding import Finding
from records.judge.record import JudgedRecord
from records.judge.rules import found

MEBIBYTES = 16 * 1024 * 1024
_ARTIFACT = r"(^|/)([^/]*\.(ptz|xz|lzma|zst|br|lrz|safetensors)|(final_)?model[^/]*\.(bin|pt|npz))$"
_NATIVE = r"\.(c|cc|cpp|cu|h|so|rs)$"
_TOKENIZER = r"(tokenizer|bpe|spm|sentencepiece|vocab)[^/]*\.(model|json|vocab|txt|yaml)$|\.model$"


@dataclass(frozen=True)
class Sizes:
    """Bytes; None where nobody tells."""

    total: int | None  # claimed
    code: int | None  # claimed
    model: int | None  # claimed, or what the total leaves
    script: int  # shipped
    helpers: dict[str, int]  # shipped beside the script and used by it

    @property
    def shipped(self) -> int | None:
        """Model and code as they lie there."""
        return None if self.model is None else self.model + self.script


def sizes_of(record: JudgedRecord) -> Sizes:
    """The sizes of a record, from claims first and logs second."""
    claims = record.claims
    last = record.logs[-1].log if record.logs else None

    def told(name: str, logged: str) -> int | None:
        claimed = claims.number(name)
        return int(claimed) if claimed else last.size(logged) if last else None

    total, code, model = told("bytes_total", "total"), told("bytes_code", "code"), claims.number("bytes_model")
    if not model and total and code:
        model = total - code
    helpers = {name: record.folder.files[name].size for name in record.helpers}
    helpers |= {file.name: file.size for file in record.folder.matching(_NATIVE)}
    return Sizes(total, code, int(model) if model else None, record.script.size if record.script else 0, helpers)


def judge_budget(record: JudgedRecord) -> Iterator[Finding]:
    """No total above the budget, by anybody's figures."""
    claims, budget, sizes = record.claims, record.limits.budget, sizes_of(record)
    claimed = {"bytes_total": claims.number("bytes_total")}
    claimed |= {f"seed {seed}": result.get("bytes_total") for seed, result in claims.results.items()}
    over = {place: int(size) for place, size in claimed.items() if size and size > budget}
    if over:
        place, size = max(over.items(), key=lambda entry: entry[1])
        unit = "; below 16 MiB, but the cap is decimal" if size <= MEBIBYTES and budget == 16_000_000 else ""
        yield found("total-over-budget", f"{size:,} bytes of {budget:,} allowed{unit}", f"submission.json {place}")
    for facts in record.logs:
        size = facts.log.size("total")
        if size and size > budget:
            yield found("log-over-budget", f"the log prints {size:,} bytes of {budget:,} allowed", facts.name)
    artifacts = record.folder.matching(_ARTIFACT)
    largest = max(artifacts, key=lambda file: file.size, default=None)
    if largest and largest.size + sizes.script > budget:
        size = f"{largest.size:,} + {sizes.script:,} bytes of {budget:,} allowed"
        yield found("disk-over-budget", size, largest.name)


def judge_claimed_bytes(record: JudgedRecord) -> Iterator[Finding]:
    """The claimed bytes: there, exact, and adding up."""
    claims, sizes = record.claims, sizes_of(record)
    if record.claims_file is None or record.claims_problem:
        return
    if sizes.total is None and not claims.seed_values("bytes_total"):
        yield found("bytes-missing", "neither submission.json nor a log tells the total bytes", record.claims_file.name)
        return
    total = claims.number("bytes_total")
    if total and total % 100_000 == 0:
        yield found("bytes-rounded", f"bytes_total is {int(total):,}", record.claims_file.name)
    parts = claims.number("bytes_code"), claims.number("bytes_model")
    if total and all(parts) and abs(sum(parts) - total) > 0.5:
        said = f"code {int(parts[0]):,} + model {int(parts[1]):,} is not the total {int(total):,}"
        yield found("bytes-sum", said, record.claims_file.name)


def judge_agreement(record: JudgedRecord) -> Iterator[Finding]:
    """submission.json against the logs, the logs against each other's claims, both against the disk."""
    claims, total = record.claims, record.claims.number("bytes_total")
    logged = [size for facts in record.logs if (size := facts.log.size("total"))]
    if total and logged:
        nearest_logged = min([*logged, sum(logged) / len(logged)], key=lambda size: abs(size - total))
        if abs(nearest_logged / total - 1) > 0.001:
            heavy = None if abs(nearest_logged / total - 1) > 0.01 else "note"
            said = f"{int(total):,} in submission.json, {int(nearest_logged):,} in the log"
            yield found("bytes-disagree", said, record.logs[-1].name, heavy)
    model = claims.number("bytes_model")
    artifacts = record.folder.matching(r"(^|/)model\.bin$|\.ptz$")
    results = [result["bytes_total"] for result in claims.results.values() if "bytes_total" in result]
    for file in artifacts if model else ():
        if file.size not in {model, *results}:
            yield found("bytes-disagree", f"{file.size:,} on disk, {int(model):,} claimed for the model", file.name)


def judge_code_bytes(record: JudgedRecord) -> Iterator[Finding]:
    """The code as shipped beside the code as claimed, helpers and tokenizers by name."""
    sizes, budget = sizes_of(record), record.limits.budget
    if record.script is None:
        return
    whole = sizes.script + sum(size for name, size in sizes.helpers.items() if name.endswith(".py"))
    everything = sum(file.size for file in record.folder.matching(r"(?<!_readable)\.py$"))
    if (
        sizes.code
        and sizes.code not in (sizes.script, whole, everything)
        and abs(sizes.code / (sizes.script or 1) - 1) > 0.005
    ):
        kind = "a wrapper that is not shipped" if sizes.code < sizes.script else "other code than is shipped"
        said = f"counts {sizes.code:,} bytes of code ({kind}), ships {sizes.script:,}"
        yield found("code-hypothetical", said, record.script.name)
    if sizes.shipped and sizes.shipped > budget and (sizes.total or 0) <= budget:
        said = f"model {sizes.model:,} + script as shipped {sizes.script:,} = {sizes.shipped:,} of {budget:,} bytes"
        yield found("shipped-over-budget", said, record.script.name)
    tokenizers = {file.name: file.size for file in record.folder.matching(_TOKENIZER)}
    python_counts = sizes.code in (whole, everything) and sizes.code != sizes.script
    helpers = {name: size for name, size in sizes.helpers.items() if not (python_counts and name.endswith(".py"))}
    uncounted = helpers | tokenizers
    if uncounted:
        listed = ", ".join(f"{name} {size:,}" for name, size in list(uncounted.items())[:8])
        yield found(
            "helpers-uncounted", f"{sum(uncounted.values()):,} bytes beside the script: {listed}", record.script.name
        )
