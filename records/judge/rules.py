"""Every rule of the static judge: its name, how heavy it weighs at most, and what it looks for, in one sentence.

Findings about code weigh "doubtful" at most: they are evidence for a reader, not verdicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from records.judge.finding import Finding


@dataclass(frozen=True)
class JudgeRule:
    """A rule; a finding may weigh less than `severity` where the evidence is weaker."""

    family: str
    severity: str
    sentence: str


def _family(family: str, *rules: tuple[str, str, str]) -> dict[str, JudgeRule]:
    return {name: JudgeRule(family, severity, sentence) for name, severity, sentence in rules}


RULES: dict[str, JudgeRule] = {
    **_family(
        "completeness",
        ("folder-problem", "doubtful", "every file of the folder can be read, and there are not too many"),
        ("submission-missing", "invalid", "the folder holds a submission.json"),
        ("submission-unreadable", "invalid", "submission.json is a JSON object without NaN or repeated keys"),
        ("script-missing", "invalid", "the folder holds a train_gpt.py"),
        ("script-empty", "invalid", "the script is not empty"),
        ("script-syntax", "invalid", "the script and every module that it imports parse"),
        ("log-missing", "invalid", "the folder holds a log of at least one run"),
        ("log-empty", "doubtful", "every log tells of a run: steps, scores or sizes"),
        ("readme-missing", "doubtful", "the folder holds a README"),
        ("several-records", "doubtful", "the folder is one record, not several"),
        ("score-missing", "invalid", "submission.json claims a score above 0"),
        ("placeholder", "invalid", "no field still holds the template's words"),
        ("field-missing", "doubtful", "author, github_id, name and date are given"),
        ("key-variant", "note", "every field stands under its usual key; else the key that was read is told"),
        ("date-format", "doubtful", "the date is an ISO date"),
        ("date-disagrees", "note", "the date of the folder is that of submission.json, give or take a month"),
        ("folder-name", "note", "the folder is called YYYY-MM-DD_Name, without spaces"),
        ("track-unknown", "note", "the track can be told from submission.json or from the folder above"),
        ("track-disagrees", "doubtful", "submission.json and the folder above name the same track"),
        ("readme-disagrees", "doubtful", "the README tells the score that submission.json claims"),
    ),
    **_family(
        "sizes",
        ("total-over-budget", "invalid", "no claimed total is above 16,000,000 decimal bytes (or the track's budget)"),
        ("log-over-budget", "invalid", "no log prints a total above the budget"),
        ("disk-over-budget", "invalid", "artifact and script on disk are within the budget"),
        ("shipped-over-budget", "doubtful", "the total is within the budget with the code as it is shipped"),
        ("bytes-missing", "doubtful", "submission.json or a log tells the total bytes"),
        ("bytes-rounded", "note", "the total bytes are exact"),
        ("bytes-sum", "doubtful", "code and model add up to the total"),
        ("bytes-disagree", "doubtful", "submission.json, the logs and the disk tell the same sizes"),
        ("code-hypothetical", "note", "the code that is counted is the code that is shipped"),
        ("helpers-uncounted", "note", "helpers and tokenizers are counted; else they are named with their bytes"),
    ),
    **_family(
        "clocks",
        ("training-overrun", "invalid", "training ends within its cap and one step"),
        ("calibration-overrun", "doubtful", "training and the statistics for quantisation together end within the cap"),
        ("reserve-not-subtracted", "doubtful", "a reserve for quantisation is taken out of the training time"),
        ("evaluation-overrun", "invalid", "evaluation ends within 600 s"),
        ("evaluation-untimed", "doubtful", "what evaluation prepares counts in its time"),
        ("clock-missing", "doubtful", "the log tells how long training took"),
        ("clock-disagrees", "doubtful", "submission.json and the log tell the same times"),
    ),
    **_family(
        "bytes of text",
        ("bytes-double-space", "invalid", "the space before a word is counted once (ratio 1.1746, 1.1671)"),
        ("bytes-fallback-as-three", "invalid", "a byte piece counts as one byte (ratio 1.0413)"),
        ("bytes-table-of-other-text", "invalid", "the byte table is of the text that is scored (164.6 MB)"),
        ("bytes-ln2-twice", "invalid", "the loss is divided by ln 2 once"),
        ("bytes-other-split", "doubtful", "the score is on the published validation split"),
        ("bytes-implied", "doubtful", "loss and bits per byte imply 151.08 M bytes within 0.02 %"),
        ("loss-bpb-contradict", "invalid", "loss, tokens, bytes and bits per byte agree with each other"),
        ("split-partial", "invalid", "every token of the validation split is scored"),
        ("bpb-implausible", "doubtful", "the score is above 0.5 bits per byte"),
        ("training-shards", "doubtful", "the training shards are the published ones (80, not 1,499)"),
        ("validation-documents", "doubtful", "data preparation holds out all 50,000 validation documents"),
    ),
    **_family(
        "seeds",
        ("seeds-disagree", "doubtful", "the seeds of submission.json are those of the logs"),
        ("seeds-too-few", "doubtful", "a record has three seeds or more"),
        ("seeds-unreported", "doubtful", "every seed that was run is reported"),
        ("seeds-identical", "doubtful", "different seeds give different logs and scores"),
        ("seed-search", "doubtful", "seeds were fixed beforehand, not chosen by their score"),
        ("score-not-in-log", "doubtful", "every claimed score is the last score of a log"),
        ("mean-disagrees", "doubtful", "the claimed score is the mean over the seeds"),
        ("std-disagrees", "doubtful", "the claimed deviation is that of the seeds"),
        ("std-of-population", "note", "the claimed deviation is the sample's (n - 1)"),
        ("not-significant", "doubtful", "a claimed improvement passes at least the progression rule"),
        ("significance", "note", "the improvement over the named baseline is told by both rules"),
    ),
    **_family(
        "code: leakage",
        ("target-in-key", "doubtful", "no cache is read under a key that holds the token being predicted"),
        ("target-only-blend", "doubtful", "no hashed count is blended into the true token's probability alone"),
        ("gate-reads-target", "doubtful", "no gate of a tilt is computed from the token being predicted"),
        ("validation-calibration", "doubtful", "statistics for quantisation are not taken on validation text"),
        ("validation-before-freeze", "doubtful", "nothing is trained on validation text before the export"),
        ("validation-as-training", "doubtful", "the training loader does not read validation shards"),
        ("validation-in-artifact", "doubtful", "the artifact holds no validation text"),
        ("validation-warmup", "doubtful", "compile warm-up does not train on validation text"),
        ("document-leak", "doubtful", "a gate over the previous token stops at the start of a document"),
        ("lossy-text", "doubtful", "text is not folded or normalised before it is counted"),
        ("validation-glob", "note", "the pattern of validation shards leaves out the byte side-car"),
    ),
    **_family(
        "code: adaptation",
        ("step-before-score", "doubtful", "no optimiser step is taken on a span that is scored afterwards"),
        ("several-passes", "doubtful", "each token is scored once, and scored before anything is built from it"),
        ("oracle-selection", "doubtful", "no expert is chosen by the loss on the token being predicted"),
        ("byte-mixture", "doubtful", "no token probability is spread over bytes by a root"),
    ),
    **_family(
        "code: bytes of text",
        ("table-double-space", "doubtful", "the byte table does not hold the space that is added at run time"),
        ("table-fallback", "doubtful", "the byte table knows byte pieces"),
        ("bytes-constant", "doubtful", "the bytes of a token are counted, not a constant"),
    ),
    **_family(
        "code: dead flags",
        ("flag-unread", "note", "every setting that is read from outside is used"),
        ("late-qat-folded", "doubtful", "a flag that is flipped during training is not folded into compiled code"),
        ("average-unused", "doubtful", "an average of weights that is collected is loaded"),
        ("temperature-unused", "doubtful", "a temperature reaches the logits"),
    ),
    **_family(
        "code: inputs",
        ("network", "doubtful", "the script does not use the network"),
        ("pickle", "doubtful", "nothing is unpickled but tensors"),
        ("runs-other-files", "doubtful", "the script runs no other file, or the file is named with its bytes"),
        ("external-program", "note", "the script needs no program that is not there"),
        ("payload-opaque", "doubtful", "a packed script can be unpacked and read"),
        ("code-approximate", "note", "the script parses here without help, so that every name in it was seen"),
        ("code-minified", "note", "names tell what they hold, so that the rules about code see it"),
    ),
    **_family(
        "the judge",
        ("rule-gave-up", "note", "every rule could be applied"),
    ),
}  # fmt: skip


def finding_of(
    rules: Mapping[str, Any],  # a judge's table, whose entries have a severity
    rule: str,
    message: str,
    evidence: str,
    severity: str | None = None,  # None: the rule's own
    confidence: str = "certain",
    why: str = "",
) -> Finding:
    """A finding of `rule`, which must be in the table."""
    return Finding(severity or rules[rule].severity, rule, message, evidence, confidence, why)


found = partial(finding_of, RULES)
