"""The tests of a scorer in time: each feeds it texts that differ in one thing and looks at what must not differ.

    causality             p_t depends on the artifact and on tokens <= t alone
    target flip           the token that p_t is about is not among them
    score before update   a text that ends after t has the same p_t

The probed text is a passage of the validation text, twice: in the second copy every cache has seen what it looks for.
Where both texts have one shape the arithmetic is the same, and a difference means dependence. Elsewhere the order of
sums may change, and only what is larger than rounding counts.

Issue 1017 of the competition ("Field Guide to Valid Submissions") states the conditions.
"""

from collections.abc import Iterator

import numpy as np

from records.dynamic.bench import ScorerBench, nats_of
from records.dynamic.changes import OTHER_SHAPE, Baseline, LargestChange, graded, largest_change
from records.dynamic.rules import Probe, broken, probe_of

_TIME_TESTS = ("target flip", "target flip, later", "causality", "score before update", "chunks")


def run_probes(bench: ScorerBench) -> Iterator[Probe]:
    """Every test in turn; raises as the session does when the scorer ends, is too slow or takes too much memory."""
    passage = bench.passage(bench.plan.window // 2)
    stream = np.concatenate([passage, passage])
    rows = bench.rows(stream)
    repeated, noise = _repeat(bench, stream, rows)
    yield repeated
    if noise > OTHER_SHAPE:
        # Whatever changed with the text could have changed without it.
        yield from (
            Probe(name, None, "cannot be told where the same text does not score the same") for name in _TIME_TESTS
        )
        return
    baseline = Baseline(stream, rows, noise)
    yield _flips(bench, baseline, _TIME_TESTS[0], range(1, len(stream)), bench.plan.flips)
    yield _later_flips(bench, noise)
    yield _cuts(bench, baseline)
    yield _truncations(bench, baseline)
    yield _chunks(bench, baseline)


def _repeat(bench: ScorerBench, stream: np.ndarray, rows: np.ndarray) -> tuple[Probe, float]:
    """The same text again: the test, and how much the predictions moved."""
    again = bench.rows(stream)
    noise = largest_change(rows, again)
    first, second = (nats_of(table, stream[1:]) for table in (rows, again))
    evidence = f"{len(stream)} tokens twice: {first.mean():.6f} then {second.mean():.6f} nats a token"
    gain, findings = first - second, []
    # Chance alone moves the mean by a standard error or two.
    if gain.mean() > max(OTHER_SHAPE, 4 * gain.std() / np.sqrt(len(gain))):
        findings.append(broken("two-pass", "a text scores better once it has been scored", evidence))
    elif noise > OTHER_SHAPE:
        findings.append(broken("not-repeatable", f"a prediction moved by {noise:.3g} nats", evidence))
    return probe_of("the same text twice", f"predictions moved by at most {noise:.1e} nats", findings), noise


def _flips(bench: ScorerBench, baseline: Baseline, name: str, places: range, count: int) -> Probe:
    """One token is another: nothing before it may change, least of all the prediction of it."""
    stream, rows, chunk = baseline.stream, baseline.rows, bench.plan.chunk
    own, earlier = LargestChange(len(stream), chunk), LargestChange(len(stream), chunk)
    # Not the first of a chunk: its prediction was given before it was shown.
    shown = [place for place in places if place % chunk]
    for place in sorted(bench.draw.choice(shown, min(count, len(shown)), replace=False)):
        changed = stream.copy()
        changed[place] = bench.other_token(int(stream[place]))
        others = bench.rows(changed)
        own.see(largest_change(rows[place - 1 : place], others[place - 1 : place]), place)
        earlier.see(largest_change(rows[: place - 1], others[: place - 1]), place)
    findings = []
    if own.size > baseline.tolerance:
        message = f"the prediction of a token changes by {own.size:.3g} nats with the token"
        findings.append(broken("target-flip", message, own.evidence))
    if earlier.size > baseline.tolerance:
        message = f"predictions before a token change by {earlier.size:.3g} nats with it"
        findings.append(broken("causality", message, earlier.evidence))
    worst = max(own.size, earlier.size)
    return probe_of(name, f"{count} of {len(stream):,} tokens changed, predictions until then by {worst:.1e}", findings)


def _later_flips(bench: ScorerBench, noise: float) -> Probe:
    """The same far into a text, for what needs a while until it begins; the end of the text repeats its beginning."""
    tail = 3 * bench.plan.chunk
    passage = bench.passage(bench.plan.depth - tail)
    stream = np.concatenate([passage, passage[:tail]])
    baseline = Baseline(stream, bench.rows(stream), noise)
    return _flips(bench, baseline, _TIME_TESTS[1], range(len(stream) - tail, len(stream)), bench.plan.later_flips)


def _cuts(bench: ScorerBench, baseline: Baseline) -> Probe:
    """Everything from a place on is another text."""
    stream, worst = baseline.stream, LargestChange(len(baseline.stream), bench.plan.chunk)
    for place in _later_places(bench, len(stream)):
        others = bench.rows(np.concatenate([stream[:place], bench.passage(len(stream) - place)]))
        worst.see(largest_change(baseline.rows[: place - 1], others[: place - 1]), place)
    findings = []
    if worst.size > baseline.tolerance:
        message = f"predictions change by {worst.size:.3g} nats with the text after their targets"
        findings.append(broken("causality", message, worst.evidence))
    return probe_of(_TIME_TESTS[2], f"{bench.plan.cuts} other continuations, predictions by {worst.size:.1e}", findings)


def _truncations(bench: ScorerBench, baseline: Baseline) -> Probe:
    """The text ends: what was predicted until there was predicted without what came after."""
    stream, worst = baseline.stream, LargestChange(len(baseline.stream), bench.plan.chunk)
    for place in _later_places(bench, len(stream)):
        baseline.compare(bench.rows(stream[:place]), worst, place)
    message = f"predictions change by {worst.size:.3g} nats when the text ends after them"
    findings = graded("score-before-update", message, worst, baseline.noise)
    return probe_of(_TIME_TESTS[3], f"{bench.plan.cuts} shorter texts, predictions by {worst.size:.1e}", findings)


def _chunks(bench: ScorerBench, baseline: Baseline) -> Probe:
    """The same text in one piece, in uneven ones, and with the last tokens one by one."""
    stream, worst = baseline.stream, LargestChange(len(baseline.stream), bench.plan.chunk)
    for chunks in ([len(stream)], [5, 11, bench.plan.chunk + 3], [len(stream) - 8, 1]):
        baseline.compare(bench.rows(stream, chunks), worst, len(stream))
    measured = f"3 other cuts of the text, predictions by {worst.size:.1e}"
    if bench.session.declared.get("adaptive"):
        return Probe(_TIME_TESTS[4], None, f"{measured}; the scorer says that it adapts, so they may move")
    message = f"predictions change by {worst.size:.3g} nats with the pieces in which the text is given"
    return probe_of(_TIME_TESTS[4], measured, graded("chunk-dependent", message, worst, baseline.noise, "doubtful"))


def _later_places(bench: ScorerBench, length: int) -> list[int]:
    """Places in the later three quarters of a text of `length` tokens."""
    return sorted(bench.draw.integers(length // 4, length - 1, size=bench.plan.cuts).tolist())
