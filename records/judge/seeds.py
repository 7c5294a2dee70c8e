"""Seeds: submission.json against the logs, mean and deviation recomputed, both rules of significance."""

import hashlib
import math
import re
import statistics
from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.significance import MARGIN_NATS, PROGRESSION_LEVEL, WRITTEN_LEVEL, one_sample_test
from runtime.errors import UserError

_SEARCH = re.compile(
    r"best[- ]of[- ]\d+|best (?:\w+ ){0,2}seeds?\b|seeds? (?:search|sweep|mining|selection)"
    r"|lowest (?:val_bpb|bpb)|cherry[- ]?pick",
    re.IGNORECASE,
)


def judge_seeds(record: JudgedRecord) -> Iterator[Finding]:
    """The seeds: enough, of logs, different, and all reported."""
    claims, source = record.claims, "submission.json"
    listed, logged = set(claims.seeds), {facts.seed for facts in record.logs if facts.seed is not None}
    if listed and logged and listed - logged:
        yield found("seeds-disagree", f"no log of {_shown(listed - logged)}", source, _weight(record))
    if len(listed) > 1 and logged - listed:
        yield found("seeds-unreported", f"logs of {_shown(logged - listed)}, which submission.json leaves out", source)
    count = max(len(listed), len(claims.results), len(record.logs))
    if record.limits.track in ("10min", "unknown") and 0 < count < 3:
        yield found("seeds-too-few", f"{count} of the 3 seeds that a record needs", source, _weight(record, "10min"))
    elif 0 < count < 3:
        yield found("seeds-too-few", f"{count} of 3 seeds", source, "note")
    unreported = _unreported(claims.tree, listed)
    if unreported:
        said = f"submission.json itself tells of {_shown(unreported)} beyond those it reports"
        yield found("seeds-unreported", said, source)


def judge_copies(record: JudgedRecord) -> Iterator[Finding]:
    """Different seeds give different logs and scores."""
    digests: dict[str, str] = {}
    for facts in record.logs:
        data = record.folder.files[facts.name].data or b""
        digest = hashlib.sha256(data).hexdigest()
        if len(data) > 200 and digest in digests:
            yield found("seeds-identical", f"the same bytes as {digests[digest]}", facts.name)
        digests.setdefault(digest, facts.name)
    scores = record.claims.seed_values("val_bpb")
    repeated = {score for score in scores if scores.count(score) > 1 and len(f"{score:.10g}") > 8}
    if repeated:
        yield found("seeds-identical", f"the same score {_shown(repeated)} for several seeds", "submission.json")


def judge_search(record: JudgedRecord) -> Iterator[Finding]:
    """Words that tell of seeds chosen by their score."""
    for name, text in (
        ("submission.json", str(record.claims.tree)),
        ("README", record.readme.text if record.readme else ""),
    ):
        match = _SEARCH.search(text)
        if match:
            said = f"{text[max(0, match.start() - 40) : match.end() + 40].strip()!r}"
            yield found("seed-search", said, name, None, "medium", "the words may deny it, or be about something else")


def judge_scores(record: JudgedRecord) -> Iterator[Finding]:
    """Every claimed score is the last of a log, the claimed mean and deviation are those of the seeds."""
    claims = record.claims
    finals = {facts.name: facts.log.final.val_bpb for facts in record.logs if facts.log.final}
    for seed, result in claims.results.items():
        own = {name: score for name, score in finals.items() if _seed_of(record, name) == seed}
        claimed = result.get("val_bpb")
        if claimed and own and not any(_same(claimed, score) for score in own.values()):
            yield _not_in_log(record, f"seed {seed}: {claimed}", own)
    claimed = claims.number("val_bpb")
    if claimed and finals and not claims.results:
        means = {"the mean of the logs": statistics.fmean(finals.values()), **finals}
        if not any(_same(claimed, score) for score in means.values()):
            yield _not_in_log(record, f"{claimed}", means)
    for name in ("val_bpb", "val_loss"):
        yield from _mean_and_deviation(record, name)


def judge_significance(record: JudgedRecord) -> Iterator[Finding]:
    """Both rules against the baseline that the submission names, whose seeds are not known."""
    claims = record.claims
    base, values = claims.number("baseline_bpb"), claims.seed_values("val_bpb")
    loss, bpb = claims.number("val_loss"), claims.number("val_bpb")
    if not base or len(values) < 2 or not bpb:
        return
    nats_a_bit = loss / bpb if loss else None
    try:
        progression = one_sample_test(values, base)
        written = one_sample_test(values, base, MARGIN_NATS / nats_a_bit) if nats_a_bit else None
    except UserError as error:
        yield found("significance", str(error), "submission.json", why="nothing was tested", confidence="low")
        return
    rules = f"progression p = {progression.p:.2g} (below {PROGRESSION_LEVEL} wanted)"
    if written:
        rules += f", written p = {written.p:.2g} (below {WRITTEN_LEVEL} wanted)"
    said = f"against {base}: {rules}, n = {len(values)}"
    weak = progression.p >= PROGRESSION_LEVEL
    yield found("not-significant" if weak else "significance", said, "submission.json", None, "medium", _WHY_ONE_SAMPLE)


_WHY_ONE_SAMPLE = "the baseline's seeds are not known, its mean is taken for exact; records compare takes both sides"


def _mean_and_deviation(record: JudgedRecord, name: str) -> Iterator[Finding]:
    values, claims = record.claims.seed_values(name), record.claims
    claimed, deviation = claims.number(name), claims.number(f"{name}_std")
    if len(values) < 2 or len(values) < len(claims.seeds) or not claimed:
        return
    mean = statistics.fmean(values)
    if not _same(claimed, mean) and not any(_same(claimed, value) for value in values):
        yield found("mean-disagrees", f"{name} {claimed}, the seeds' mean is {mean:.8g}", "submission.json")
    elif not _same(claimed, mean):
        yield found(
            "mean-disagrees", f"{name} {claimed} is one seed's; the mean is {mean:.8g}", "submission.json", "note"
        )
    if deviation is None:
        return
    sample, population = statistics.stdev(values), statistics.pstdev(values)
    # A deviation is written to a few digits only, and rounded seeds round it once more.
    slack = 0.006 * sample + 6e-6 * max(1.0, claimed)
    if abs(deviation - sample) <= slack:
        return
    if abs(deviation - population) <= slack:
        said = f"{name}_std {deviation:g} is over n, the sample's is {sample:.3g}"
        yield found("std-of-population", said, "submission.json")
    else:
        yield found("std-disagrees", f"{name}_std {deviation:g}, the seeds' is {sample:.3g}", "submission.json")


def _not_in_log(record: JudgedRecord, claimed: str, finals: dict[str, float]) -> Finding:
    """A claim that no log ends in; told gently where it stands in a log before its end."""
    told = ", ".join(f"{score:.8g} ({name})" for name, score in list(finals.items())[:3])
    number = float(claimed.split()[-1])
    earlier = [entry.label for facts in record.logs for entry in facts.log.scores if _same(number, entry.val_bpb)]
    if earlier:
        return found(
            "score-not-in-log",
            f"claims {claimed}, the score called {earlier[0][:60]!r}; last is {told}",
            "submission.json",
        )
    return found("score-not-in-log", f"claims {claimed}, logged is {told}", "submission.json")


def _same(claimed: float, logged: float) -> bool:
    """Equal to the digits that the claim has, at least to four."""
    digits = len(f"{claimed:.10g}".partition(".")[2])
    return math.isclose(claimed, logged, abs_tol=0.51 * 10.0 ** -min(max(digits, 4), 7) + 5e-8)


def _seed_of(record: JudgedRecord, name: str) -> int | None:
    return next(facts.seed for facts in record.logs if facts.name == name)


def _unreported(tree: dict, listed: set[int]) -> set[int]:
    """Seeds that the submission mentions in a list of all its runs, beside those it reports."""
    found_seeds: set[int] = set()
    waiting = [tree]
    while waiting:
        held = waiting.pop()
        for key, value in held.items() if isinstance(held, dict) else ():
            if isinstance(value, dict):
                waiting.append(value)
            elif isinstance(value, list) and re.fullmatch(r"all_(\w*_)?seeds|seeds_(run|tried|all)", str(key)):
                found_seeds |= {seed for seed in value if isinstance(seed, int) and not isinstance(seed, bool)}
    return found_seeds - listed if listed else set()


def _shown(values: set) -> str:
    return ", ".join(map(str, sorted(values)[:8]))


def _weight(record: JudgedRecord, track: str = "") -> str | None:
    """Outside the record track a missing seed is a note."""
    return None if record.limits.track in ("10min", track) else "note"
