"""The static judge: every rule over every folder, nothing executed, nothing raised for what a folder holds."""

from collections.abc import Callable, Iterator
from pathlib import Path

from records.judge.adaptation import judge_adaptation
from records.judge.blends import judge_blends
from records.judge.byte_accounting import judge_bytes, judge_plausibility, judge_preparation, judge_split
from records.judge.byte_tables import judge_byte_tables
from records.judge.cache_keys import judge_cache_keys
from records.judge.clocks import judge_evaluation_clock, judge_told_times, judge_training_clock
from records.judge.completeness import judge_claims, judge_files, judge_logs, judge_names, judge_readme, judge_script
from records.judge.dead_flags import judge_averages, judge_flags, judge_late_qat, judge_temperature
from records.judge.finding import Finding, Verdict, by_weight
from records.judge.flow import FlowIndex
from records.judge.folder import RecordFolder, read_folder
from records.judge.inputs import judge_network, judge_other_files, judge_payloads, judge_pickles, judge_programs
from records.judge.leakage import judge_documents, judge_glob, judge_lossy_text, judge_validation_use, judge_warmup
from records.judge.passes import judge_byte_mixture, judge_passes
from records.judge.record import JudgedRecord, read_record
from records.judge.rules import found
from records.judge.seeds import judge_copies, judge_scores, judge_search, judge_seeds, judge_significance
from records.judge.sizes import judge_agreement, judge_budget, judge_claimed_bytes, judge_code_bytes
from runtime.errors import UserError

_FIGURE_RULES = (
    *(judge_files, judge_script, judge_logs, judge_claims, judge_names, judge_readme),
    *(judge_budget, judge_claimed_bytes, judge_agreement, judge_code_bytes),
    *(judge_training_clock, judge_evaluation_clock, judge_told_times),
    *(judge_bytes, judge_split, judge_preparation, judge_plausibility),
    *(judge_seeds, judge_copies, judge_search, judge_scores, judge_significance),
)
_CODE_RULES = (
    *(
        judge_cache_keys,
        judge_blends,
        judge_validation_use,
        judge_warmup,
        judge_documents,
        judge_glob,
        judge_lossy_text,
    ),
    *(judge_adaptation, judge_passes, judge_byte_mixture, judge_byte_tables),
    *(judge_flags, judge_late_qat, judge_averages, judge_temperature),
    *(judge_network, judge_pickles, judge_other_files, judge_programs, judge_payloads),
)


def judge_path(path: Path) -> Verdict:
    """The verdict on the record folder at `path`; unreadable where there is none."""
    try:
        return judge_folder(read_folder(path), str(path))
    except UserError as error:
        return Verdict(str(path), False, (Finding("invalid", "folder-problem", str(error), str(path)),))


def judge_folder(folder: RecordFolder, place: str = "") -> Verdict:
    """The verdict on a folder that has been read."""
    record = read_record(folder)
    findings = [entry for rule in _FIGURE_RULES for entry in _applied(rule, record)]
    try:
        flows = FlowIndex(record.units)
    except RecursionError:
        findings.append(found("rule-gave-up", "the script nests too deeply to be followed", folder.name))
    else:
        findings += [entry for rule in _CODE_RULES for entry in _applied(rule, record, flows)]
    return Verdict(place or folder.name, True, by_weight(findings))


def _applied(rule: Callable[..., Iterator[Finding]], *arguments: JudgedRecord | FlowIndex) -> list[Finding]:
    """What a rule finds; a script that nests too deeply for it is told of, not raised."""
    try:
        return list(rule(*arguments))
    except RecursionError:
        return [found("rule-gave-up", f"{rule.__name__}: the script nests too deeply", arguments[0].folder.name)]
