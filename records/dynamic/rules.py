"""Every rule of the dynamic judge: how heavy it weighs at most, and what holds, in one sentence."""

from dataclasses import dataclass
from functools import partial

from records.judge.finding import Finding
from records.judge.rules import finding_of
from records.markers import between_markers
from records.readme import markdown_table

_START, _END = "<!-- rules of verify: python -m records rules --write -->", "<!-- end of rules of verify -->"


@dataclass(frozen=True)
class DynamicRule:
    """A rule of `records verify`; a finding may weigh less where the evidence is weaker."""

    severity: str
    sentence: str


DYNAMIC_RULES: dict[str, DynamicRule] = {
    name: DynamicRule(severity, sentence)
    for name, severity, sentence in (
        ("rescore-differs", "invalid", "the artifact alone scores what is claimed, within 1e-6 bits per byte"),
        ("rescore-missing", "doubtful", "there is a claimed score and a way to repeat it"),
        ("artifact-differs", "invalid", "the artifact is the one whose score is claimed"),
        ("coverage", "invalid", "every target of the validation split is scored, and once"),
        ("byte-accounting", "invalid", "the bytes that are charged are those of the decoded text"),
        ("other-scorer", "invalid", "what was probed scores like the record's own command"),
        ("causality", "invalid", "changing later tokens changes no earlier prediction"),
        ("target-flip", "invalid", "changing only the target changes nothing in the prediction of it"),
        ("score-before-update", "invalid", "every prediction is as it was when the text ends right after it"),
        ("chunk-dependent", "doubtful", "a scorer that does not adapt answers the same however the text is cut"),
        ("two-pass", "invalid", "a text that is scored a second time scores as it did the first time"),
        ("not-repeatable", "doubtful", "the same text gives the same predictions again"),
        ("normalisation", "invalid", "the probabilities of the whole vocabulary sum to 1 (log-sum-exp within 1e-4)"),
        ("document-leak", "doubtful", "where documents are said to be apart, the one before changes nothing"),
        ("documents-attended", "note", "nothing is claimed of documents; whether the one before counts is told"),
        ("leaked-documents", "invalid", "no validation document stands in the training manifest"),
        ("lossy-text", "note", "the tokens decode to the raw text"),
        ("manifest-missing", "note", "the data folder has a manifest that tells the documents of both splits"),
        ("artifact-changed", "invalid", "the artifact is afterwards what it was"),
        ("train-shard-read", "invalid", "no training shard is opened"),
        ("validation-read", "invalid", "a scorer is given its tokens and opens no validation file"),
        ("file-outside", "invalid", "no file outside of the sandbox and the installed packages is opened"),
        ("network", "invalid", "no connection is tried"),
        ("process-started", "note", "no program is started, since what it opens is not seen"),
        ("time-limit", "invalid", "scoring ends within its time"),
        ("memory-limit", "invalid", "scoring stays within its memory"),
        ("scorer-broken", "invalid", "the scorer runs and answers with log-probabilities [T, V]"),
        ("sandbox", "note", "the kernel holds the submission (namespaces), not Python's audit hook alone"),
    )
}


def dynamic_rules_table() -> str:
    """Every rule as a row of Markdown."""
    rows = [(f"`{name}`", rule.severity, rule.sentence) for name, rule in DYNAMIC_RULES.items()]
    return markdown_table(["rule", "at most", "holds when"], rows, "---")


def with_dynamic_rules(text: str) -> str:
    """`text` with the table between its markers. Raises UserError when the markers are not there."""
    return between_markers(text, _START, _END, dynamic_rules_table())


broken = partial(finding_of, DYNAMIC_RULES)


@dataclass(frozen=True)
class Probe:
    """One test as it went: what was measured, and what it found; `held` is None where it could not be decided."""

    name: str
    held: bool | None
    measured: str
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        word = {True: "held", False: "broken", None: "open"}[self.held]
        return f"{word:<8}  {self.name}: {self.measured}"


def probe_of(name: str, measured: str, findings: list[Finding], held: bool | None = None) -> Probe:
    """A probe that is broken by any finding above a note; else `held`, by default True."""
    if any(finding.severity != "note" for finding in findings):
        return Probe(name, False, measured, tuple(findings))
    return Probe(name, True if held is None else held, measured, tuple(findings))
