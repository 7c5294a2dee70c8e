"""The tests of a scorer: each feeds it texts that differ in one thing and looks at what must not differ.

    causality             p_t depends on the artifact and on tokens <= t alone
    target flip           the token that p_t is about is not among them
    score before update   a text that ends after t has the same p_t
    normalisation         p_t sums to 1 over the whole vocabulary

The probed text is a passage of the validation text, twice: in the second copy every cache has seen what it looks for.
Where both texts have one shape the arithmetic is the same, and a difference means dependence. Elsewhere the order of
sums may change, and only what is larger than rounding counts.

Issue 1017 of the competition ("Field Guide to Valid Submissions") states the conditions.
"""

from collections.abc import Iterator

import numpy as np

from records.dynamic.bench import ScorerBench, largest_change, nats_of
from records.dynamic.rules import Probe, broken, probe_of
from records.judge.finding import Finding

NORMALISATION_TOLERANCE = 1e-4
# Nats between two runs of one shape: rounding of sums whose order depends on where the memory lies.
SAME_SHAPE = 1e-5
# Nats between two shapes: what rounding does in fp32, and at most in bf16.
OTHER_SHAPE, OTHER_SHAPE_AT_MOST = 1e-3, 0.05


def run_probes(
    bench: ScorerBench,
    isolation: str,  # where the record claims that documents are apart; "" where it does not
) -> Iterator[Probe]:
    """Every probe in turn; raises as the session does when the scorer ends, is too slow or takes too much memory."""
    passage = bench.passage(bench.plan.window // 2)
    stream = np.concatenate([passage, passage])
    base = bench.rows(stream)
    repeated, noise = _repeat(bench, stream, base)
    yield repeated
    yield _flips(bench, stream, base, max(SAME_SHAPE, 4 * noise))
    yield _cuts(bench, stream, base, max(SAME_SHAPE, 4 * noise))
    yield _truncations(bench, stream, base, noise)
    yield _chunks(bench, stream, base, noise)
    yield _documents(bench, max(SAME_SHAPE, 4 * noise), isolation)


def normalisation_probe(bench: ScorerBench) -> Probe:
    """Whether the rows of all streams until now were distributions."""
    findings = []
    if not bench.worst_sum <= NORMALISATION_TOLERANCE:
        message = f"|log-sum-exp| must be at most {NORMALISATION_TOLERANCE:g}, got {bench.worst_sum:.3g}"
        findings.append(broken("normalisation", message, bench.worst_place))
    measured = f"|log-sum-exp| at most {bench.worst_sum:.1e} over {bench.tokens_asked:,} predictions"
    return probe_of("normalisation", measured, findings)


def _repeat(bench: ScorerBench, stream: np.ndarray, base: np.ndarray) -> tuple[Probe, float]:
    """The same text again: the probe, and how much the predictions moved."""
    again = bench.rows(stream)
    noise = largest_change(base, again)
    first, second = (nats_of(rows, stream[1:]) for rows in (base, again))
    evidence = f"{len(stream)} tokens twice: {first.mean():.6f} then {second.mean():.6f} nats a token"
    gain, findings = first - second, []
    # Chance alone moves the mean by a standard error or two.
    if gain.mean() > max(OTHER_SHAPE, 4 * gain.std() / np.sqrt(len(gain))):
        findings.append(broken("two-pass", "a text scores better once it has been scored", evidence))
    elif noise > OTHER_SHAPE:
        findings.append(broken("not-repeatable", f"a prediction moved by {noise:.3g} nats", evidence))
    return probe_of("the same text twice", f"predictions moved by at most {noise:.1e} nats", findings), noise


def _flips(bench: ScorerBench, stream: np.ndarray, base: np.ndarray, tolerance: float) -> Probe:
    """One token is another: nothing before it may change, least of all the prediction of it."""
    own, earlier = _Worst(), _Worst()
    # Not the first of a chunk: its prediction was given before it was shown.
    places = [place for place in range(1, len(stream)) if place % bench.plan.chunk]
    for place in sorted(bench.draw.choice(places, min(bench.plan.flips, len(places)), replace=False)):
        changed = stream.copy()
        changed[place] = bench.other_token(int(stream[place]))
        rows = bench.rows(changed)
        own.see(largest_change(base[place - 1 : place], rows[place - 1 : place]), place)
        earlier.see(largest_change(base[: place - 1], rows[: place - 1]), place)
    findings = []
    if own.change > tolerance:
        message = f"the prediction of a token changes by {own.change:.3g} nats with the token"
        findings.append(broken("target-flip", message, own.evidence(bench)))
    if earlier.change > tolerance:
        message = f"predictions before a token change by {earlier.change:.3g} nats with it"
        findings.append(broken("causality", message, earlier.evidence(bench)))
    worst = max(own.change, earlier.change)
    return probe_of(
        "target flip", f"{bench.plan.flips} tokens changed, predictions until then by {worst:.1e}", findings
    )


def _cuts(bench: ScorerBench, stream: np.ndarray, base: np.ndarray, tolerance: float) -> Probe:
    """Everything from a place on is another text."""
    worst = _Worst()
    for place in _places(bench, len(stream), bench.plan.cuts):
        changed = np.concatenate([stream[:place], bench.passage(len(stream) - place)])
        rows = bench.rows(changed)
        worst.see(largest_change(base[: place - 1], rows[: place - 1]), place)
    findings = []
    if worst.change > tolerance:
        message = f"predictions change by {worst.change:.3g} nats with the text after their targets"
        findings.append(broken("causality", message, worst.evidence(bench)))
    return probe_of("causality", f"{bench.plan.cuts} other continuations, predictions by {worst.change:.1e}", findings)


def _truncations(bench: ScorerBench, stream: np.ndarray, base: np.ndarray, noise: float) -> Probe:
    """The text ends: what was predicted until there was predicted without what came after."""
    worst = _Worst()
    for place in _places(bench, len(stream), bench.plan.cuts):
        worst.see(largest_change(base[:place], bench.rows(stream[:place])), place)
    message = f"predictions change by {worst.change:.3g} nats when the text ends after them"
    findings = _graded("score-before-update", message, worst, bench, noise)
    measured = f"{bench.plan.cuts} shorter texts, predictions by {worst.change:.1e}"
    return probe_of("score before update", measured, findings)


def _chunks(bench: ScorerBench, stream: np.ndarray, base: np.ndarray, noise: float) -> Probe:
    """The same text in one piece, in uneven ones, and with the last tokens one by one."""
    worst = _Worst()
    for chunks in ([len(stream)], [5, 11, bench.plan.chunk + 3], [len(stream) - 8, 1]):
        worst.see(largest_change(base, bench.rows(stream, chunks)), len(stream))
    measured = f"3 other cuts of the text, predictions by {worst.change:.1e}"
    if bench.session.declared.get("adaptive"):
        return Probe("chunks", None, f"{measured}; the scorer says that it adapts, so they may move")
    message = f"predictions change by {worst.change:.3g} nats with the pieces in which the text is given"
    return probe_of("chunks", measured, _graded("chunk-dependent", message, worst, bench, noise, "doubtful"))


def _documents(bench: ScorerBench, tolerance: float, isolation: str) -> Probe:
    """Two documents in one stream, the first one exchanged: does the second one notice?"""
    half = bench.plan.window // 2
    starts = [start for start in bench.text.starts if 0 < start < len(bench.text.tokens) - half]
    if not starts:
        return Probe("documents", None, "the validation text has no second document that begins with BOS")
    start = int(starts[int(bench.draw.integers(len(starts)))])
    second = bench.text.tokens[start : start + half].astype(np.int64)
    one, other = bench.passage(half), bench.passage(half)
    # A leak may be of the last token alone.
    other[-1] = bench.other_token(int(one[-1]))
    change = largest_change(*(bench.rows(np.concatenate([first, second]))[half:] for first in (one, other)))
    measured = f"predictions in a document change by {change:.1e} with the one before"
    claimed = isolation or ("the scorer says so" if bench.session.declared.get("isolates_documents") else "")
    evidence = f"the document at token {start}, {half} tokens after each of two others"
    findings = []
    if claimed and change > tolerance:
        message = f"documents are said to be apart, but predictions change by {change:.3g} nats ({claimed})"
        findings.append(broken("document-leak", message, evidence))
    elif not claimed:
        word = "is" if change > tolerance else "is not"
        findings.append(broken("documents-attended", f"the document before {word} part of the context", evidence))
    return probe_of("documents", measured, findings)


def score_by_position(bench: ScorerBench) -> list[dict[str, float]]:
    """Mean nats of a target by the number of tokens before it, over windows from random places.

    Ranges double: 1, 2 to 3, 4 to 7 ... tokens of context; `error` is the standard error over the windows.
    """
    length = 2 * bench.plan.window
    nats = []
    for _ in range(bench.plan.num_windows):
        passage = bench.passage(length + 1)
        nats.append(nats_of(bench.rows(passage[:-1], [length]), passage[1:]))
    table = np.stack([entry[: min(map(len, nats))] for entry in nats])
    return [
        _range_of(table, first) for power in range(table.shape[1].bit_length()) if (first := 2**power) < table.shape[1]
    ]


def _range_of(table: np.ndarray, first: int) -> dict[str, float]:
    """Nats [windows, positions] of the targets with `first` tokens of context or more, up to twice as many."""
    part = table[:, first - 1 : 2 * first - 1]
    last = first + part.shape[1] - 1
    # Windows are independent of each other, the targets within one are not.
    error = part.mean(axis=1).std(ddof=1) / np.sqrt(len(part))
    return {"from": first, "to": last, "nats": float(part.mean()), "error": float(error), "windows": len(part)}


class _Worst:
    """The largest change of several, and where the text was changed."""

    def __init__(self) -> None:
        self.change, self.place = 0.0, 0

    def see(self, change: float, place: int) -> None:
        if change > self.change:
            self.change, self.place = change, int(place)

    def evidence(self, bench: ScorerBench) -> str:
        return f"token {self.place} of {bench.plan.window}, chunks of {bench.plan.chunk}"


def _places(bench: ScorerBench, length: int, count: int) -> list[int]:
    """`count` places in the later three quarters of a text of `length` tokens."""
    return sorted(bench.draw.integers(length // 4, length - 1, size=count).tolist())


def _graded(
    rule: str, message: str, worst: _Worst, bench: ScorerBench, noise: float, severity: str | None = None
) -> list[Finding]:
    """Nothing within rounding, doubtful where low precision could do it, else the rule's severity."""
    if worst.change <= max(OTHER_SHAPE, 4 * noise):
        return []
    if worst.change <= OTHER_SHAPE_AT_MOST:
        why = "low precision can do as much where shapes differ"
        return [broken(rule, message, worst.evidence(bench), "doubtful", "low", why)]
    return [broken(rule, message, worst.evidence(bench), severity)]
