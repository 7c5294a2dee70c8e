"""What else a scorer shows: are its predictions distributions, are documents apart, where in a window is it good?"""

import numpy as np

from records.dynamic.bench import ScorerBench, nats_of
from records.dynamic.changes import SAME_SHAPE, largest_change
from records.dynamic.rules import Probe, broken, probe_of

NORMALISATION_TOLERANCE = 1e-4


def normalisation_probe(bench: ScorerBench) -> Probe:
    """Whether the rows of all streams until now were distributions over the whole vocabulary."""
    findings = []
    if not bench.worst_sum <= NORMALISATION_TOLERANCE:
        message = f"|log-sum-exp| must be at most {NORMALISATION_TOLERANCE:g}, got {bench.worst_sum:.3g}"
        findings.append(broken("normalisation", message, bench.worst_place))
    measured = f"|log-sum-exp| at most {bench.worst_sum:.1e} over {bench.tokens_asked:,} predictions"
    return probe_of("normalisation", measured, findings, None if not bench.tokens_asked else True)


def packed_documents_probe(
    bench: ScorerBench,
    isolation: str,  # where the record claims that documents are apart; "" where it does not
) -> Probe:
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
    claimed = isolation or ("the scorer says so" if bench.session.declared.get("isolates_documents") else "")
    evidence = f"the document at token {start}, {half} tokens after each of two others"
    findings = []
    if claimed and change > SAME_SHAPE:
        message = f"documents are said to be apart, but predictions change by {change:.3g} nats ({claimed})"
        findings.append(broken("document-leak", message, evidence))
    elif not claimed:
        word = "is" if change > SAME_SHAPE else "is not"
        findings.append(broken("documents-attended", f"the document before {word} part of the context", evidence))
    return probe_of("documents", f"predictions in one change by {change:.1e} nats with the one before", findings)


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
    firsts = [2**power for power in range(table.shape[1].bit_length())]
    return [_range_of(table, first) for first in firsts if first < table.shape[1]]


def _range_of(table: np.ndarray, first: int) -> dict[str, float]:
    """Nats [windows, positions] of the targets with `first` tokens of context or more, up to twice as many."""
    part = table[:, first - 1 : 2 * first - 1]
    last = first + part.shape[1] - 1
    # Windows are independent of each other, the targets within one are not.
    error = part.mean(axis=1).std(ddof=1) / np.sqrt(len(part))
    return {"from": first, "to": last, "nats": float(part.mean()), "error": float(error), "windows": len(part)}
