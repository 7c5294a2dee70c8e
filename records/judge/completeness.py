"""Is everything there, does it parse, and do names, dates and tracks agree?"""

import datetime
import re
from collections.abc import Iterator

from records.judge.claims import VARIANTS
from records.judge.finding import Finding
from records.judge.record import JudgedRecord, track_kind
from records.judge.rules import found

_TEMPLATE = re.compile(r"YOUR_|PLACEHOLDER|TODO\b|CHANGE_?ME|^pending$|^tbd$", re.IGNORECASE)
_SCORE = re.compile(r"(?<![\d.,])([0-3]\.\d{3,10})(?![\d.])")


def judge_files(record: JudgedRecord) -> Iterator[Finding]:
    """The files that a submission needs."""
    folder = record.folder
    for problem in folder.problems:
        yield found("folder-problem", problem, folder.name)
    for file in folder.files.values():
        if file.problem:
            yield found("folder-problem", file.problem, file.name)
    if record.claims_file is None:
        yield found("submission-missing", "no submission.json", folder.name)
    elif record.claims_problem:
        yield found("submission-unreadable", record.claims_problem, record.claims_file.name)
    if record.readme is None:
        yield found("readme-missing", "no README", folder.name)
    nested = [file.name for file in folder.matching(r"(^|/)submission\.json$")]
    if len(nested) > 1:
        yield found("several-records", "one pull request adds one folder", ", ".join(nested[:5]))


def judge_script(record: JudgedRecord) -> Iterator[Finding]:
    """The script: there, not empty, and parsed through its payloads."""
    script = record.script
    if script is None:
        yield found("script-missing", "no train_gpt.py", record.folder.name)
    elif not script.text.strip():
        yield found("script-empty", f"{script.size} bytes of nothing", script.name)
    for part in (record.code, *record.helpers.values()):
        for place, reason in part.broken:
            yield found("script-syntax", f"does not parse as Python: {reason}", place)


def judge_logs(record: JudgedRecord) -> Iterator[Finding]:
    """The logs: there, and of runs."""
    if not record.logs:
        yield found("log-missing", "no log of a run", record.folder.name)
    for facts in record.logs:
        log = facts.log
        if not (log.steps or log.scores or log.validations or log.sizes):
            yield found("log-empty", f"{facts.size} bytes without a step, a score or a size", facts.name)


def judge_claims(record: JudgedRecord) -> Iterator[Finding]:
    """The fields of submission.json, in whatever spelling."""
    claims, file = record.claims, record.claims_file
    if file is None or record.claims_problem:
        return
    if not (claims.number("val_bpb") or 0) > 0:
        zero = "val_bpb is 0" if claims.number("val_bpb") is not None else "no field of a known name"
        said = "; ".join(claims.strange) or zero
        only_loss = (claims.number("val_loss") or 0) > 0
        weight = "doubtful" if only_loss and not claims.strange else None
        said = "a loss in nats alone, no bits per byte" if weight else f"no score above 0: {said}"
        yield found("score-missing", said, file.name, weight)
    for name in ("author", "github_id", "name", "date"):
        if not claims.text(name):
            yield found("field-missing", f"no {name}", file.name)
        elif _TEMPLATE.search(claims.text(name)):
            yield found("placeholder", f"{name} is {claims.text(name)[:40]!r}", file.name)
    variants = [f"{name} from {key}" for name, key in claims.used.items() if key != VARIANTS[name][0]]
    if variants:
        yield found("key-variant", f"read {', '.join(variants)}", file.name)


def judge_names(record: JudgedRecord) -> Iterator[Finding]:
    """Folder name, dates and track."""
    folder, claims = record.folder, record.claims
    match = re.match(r"(\d{4}-\d\d-\d\d)_\S", folder.name)
    if not match or " " in folder.name:
        yield found("folder-name", f"called {folder.name!r}, not YYYY-MM-DD_Name", folder.name)
    spaced = [name for name in folder.files if " " in name]
    if spaced:
        yield found("folder-name", "a file name with spaces", ", ".join(spaced[:5]))
    written, of_folder = claims.text("date"), _date(match[1]) if match else None
    if written and _date(written) is None:
        yield found("date-format", f"the date is {written[:40]!r}", _source(record))
    elif written and of_folder and abs((_date(written) - of_folder).days) > 31:
        yield found("date-disagrees", f"{written[:10]} in submission.json, {of_folder} in its name", folder.name)
    kinds = track_kind(claims.text("track")), track_kind(folder.parent)
    if all(kinds) and kinds[0] != kinds[1]:
        yield found("track-disagrees", f"{claims.text('track')[:60]} in a folder of {folder.parent}", _source(record))
    elif record.limits.track == "unknown":
        yield found("track-unknown", "judged by the limits of track_10min_16mb", folder.name)


def judge_readme(record: JudgedRecord) -> Iterator[Finding]:
    """The README tells the claimed score, to the digits that it gives."""
    claimed, readme = record.claims.number("val_bpb"), record.readme
    if readme is None or not claimed:
        return
    told = set(_SCORE.findall(readme.text))
    close = [number for number in told if abs(float(number) - claimed) <= 1.01 * 10.0 ** -min(4, len(number) - 2)]
    if told and not close:
        nearest_told = min(told, key=lambda number: abs(float(number) - claimed))
        yield found("readme-disagrees", f"claims {claimed}, the README's nearest figure is {nearest_told}", readme.name)


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        return None


def _source(record: JudgedRecord) -> str:
    return record.claims_file.name if record.claims_file else record.folder.name
