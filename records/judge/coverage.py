"""Which ways to be invalid the judges see: the table of the README, made from the rules and the known classes."""

from dataclasses import dataclass

from records.judge.rules import RULES
from records.markers import between_markers
from records.readme import markdown_table

_START, _END = "<!-- judge tables: python -m records rules --write -->", "<!-- end of judge tables -->"


@dataclass(frozen=True)
class OffenceClass:
    """A way in which submissions were invalid or disputed (golf_techniques.md 5.4)."""

    name: str
    static: tuple[str, ...] = ()  # rules of records check
    dynamic: str = ""  # the test of records verify
    machine: str = ""  # what no machine decides, and why


CLASSES = (
    OffenceClass("target in the key of a cache", ("target-in-key",), "flip the target"),
    OffenceClass("un-normalised blend", ("target-only-blend",), "sum over the vocabulary"),
    OffenceClass("oracle or least-loss selection", ("oracle-selection",), "flip the target"),
    OffenceClass("two passes, rescoring", ("several-passes",), "each target scored once"),
    OffenceClass("several epochs, the last one reported", ("several-passes",), "each target scored once"),
    OffenceClass("SLOT: a span optimised, then scored", ("step-before-score",), "flip the target across a span"),
    OffenceClass("causal SLOT", (), "", "the rule is not decided (#1336), so there is nothing to test against"),
    OffenceClass(
        "trained on validation text before the export",
        ("validation-before-freeze",),
        "validation files opened before the artifact lies there",
    ),
    OffenceClass("logit bias fitted at evaluation", ("step-before-score",), "flip the target"),
    OffenceClass("trained on validation text only", ("validation-as-training",), "validation files opened in training"),
    OffenceClass("calibrated on validation text", ("validation-calibration",), "validation files opened in training"),
    OffenceClass(
        "calibrated on training text after the clock",
        ("calibration-overrun", "reserve-not-subtracted"),
        "",
        "from the log alone; the clock of eight GPUs cannot be run again here",
    ),
    OffenceClass(
        "training over its time",
        ("training-overrun", "reserve-not-subtracted", "clock-disagrees"),
        "",
        "from the log alone, as above",
    ),
    OffenceClass(
        "evaluation over its time", ("evaluation-overrun", "evaluation-untimed"), "", "from the log alone, as above"
    ),
    OffenceClass(
        "artifact over its bytes",
        ("total-over-budget", "log-over-budget", "disk-over-budget", "bytes-disagree", "bytes-sum"),
        "bytes on disk",
    ),
    OffenceClass("code counted as a wrapper that is not shipped", ("code-hypothetical", "shipped-over-budget")),
    OffenceClass("helpers and tokenizers not counted", ("helpers-uncounted", "runs-other-files"), "files opened"),
    OffenceClass(
        "wrong table of bytes",
        (
            *("bytes-double-space", "bytes-fallback-as-three", "bytes-table-of-other-text", "bytes-ln2-twice"),
            *("bytes-other-split", "bytes-implied", "loss-bpb-contradict"),
            *("table-double-space", "table-fallback", "bytes-constant"),
        ),
        "bytes against the decoded text",
    ),
    OffenceClass("token probability spread over bytes", ("byte-mixture",), "sum over the alphabet"),
    OffenceClass("a part of the split scored", ("split-partial",), "each target scored once"),
    OffenceClass("gate of a tilt reads the target", ("gate-reads-target",), "flip the target"),
    OffenceClass("previous document leaks into the next", ("document-leak",), "two documents packed and apart"),
    OffenceClass(
        "validation documents among the training shards",
        ("training-shards", "validation-documents"),
        "hashes of the documents of both splits",
    ),
    OffenceClass("lossy text", ("lossy-text",), "round trip of the raw bytes"),
    OffenceClass("compile warm-up on validation text", ("validation-warmup",), "validation files opened in training"),
    OffenceClass(
        "seeds picked by their score",
        ("seed-search", "seeds-unreported", "seeds-disagree", "seeds-identical"),
        "",
        "runs that nobody shows leave no trace",
    ),
    OffenceClass(
        "incomplete package",
        (
            *("submission-missing", "submission-unreadable", "script-missing", "script-empty", "script-syntax"),
            *("log-missing", "log-empty", "score-missing", "placeholder", "several-records", "readme-missing"),
        ),
    ),
    OffenceClass(
        "not reproducible",
        ("external-program", "network", "payload-opaque"),
        "run without network in an empty home",
        "the hardware and the private data of somebody else",
    ),
    OffenceClass("validation text stored in the artifact", ("validation-in-artifact",), "bytes against a re-score"),
    OffenceClass(
        "flags that promise what the code does not do",
        ("flag-unread", "late-qat-folded", "average-unused", "temperature-unused", "readme-disagrees"),
    ),
    OffenceClass(
        "figures that contradict each other",
        ("mean-disagrees", "std-disagrees", "score-not-in-log", "seeds-too-few", "not-significant"),
        "re-score from the artifact alone",
    ),
)


def judge_tables() -> str:
    """Both tables as Markdown: what the judges see of each class, and every rule."""
    classes = [(entry.name, _rules(entry.static), entry.dynamic or "-", entry.machine or "-") for entry in CLASSES]
    rules = [(f"`{name}`", rule.family, rule.severity, rule.sentence) for name, rule in RULES.items()]
    counts = f"{len(CLASSES)} classes, {len(RULES)} rules."
    covered = markdown_table(["class", "`check` (static)", "`verify` (dynamic)", "no machine decides"], classes, "---")
    listed = markdown_table(["rule", "family", "at most", "holds when"], rules, "---")
    return f"{counts}\n\n{covered}\n\n{listed}"


def with_judge_tables(text: str) -> str:
    """`text` with the tables between its markers. Raises UserError when the markers are not there."""
    return between_markers(text, _START, _END, judge_tables())


def _rules(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"
