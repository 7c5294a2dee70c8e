"""The report as one HTML page: no resource from outside, figures as data URIs, readable at the width of a phone."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from records.judge.finding import EXIT_NOT_READABLE, SEVERITIES, printable
from records.picture.charts import Chart, interval_text
from records.picture.facts import PictureFacts

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 44rem; background: #fff; color: #1a1a1a;
       font: 1.0625rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
.quiet, figcaption { color: #555; font-size: .95rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .5rem; margin: 1rem 0; }
.figures div { border: 1px solid #ddd; border-radius: .5rem; padding: .5rem .75rem; }
.figures b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 0 0 1.5rem; }
img { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
ul.findings { list-style: none; padding: 0; margin: .5rem 0; }
ul.findings li { border-left: .3rem solid #999; padding: .25rem 0 .25rem .75rem; margin: .6rem 0;
                 overflow-wrap: anywhere; }
ul.findings li.invalid { border-color: #b00020; } ul.findings li.doubtful { border-color: #c77700; }
ul.findings li.held { border-color: #1b7f3b; }
summary { cursor: pointer; padding: .25rem 0; }
@media (max-width: 30rem) { table { font-size: .85rem; } th, td { padding-right: .5rem; } }
code { font-size: .92em; overflow-wrap: anywhere; }
"""


def page_of(
    records: Sequence[tuple[PictureFacts, list[Chart]]],
    overview: Chart | None,  # of all records, where there are several
) -> str:
    """The whole page."""
    first = records[0][0].title
    title = first if len(records) == 1 else f"{len(records)} records"
    body = "".join(_section(facts, charts) for facts, charts in records)
    over = "" if overview is None else f"<h1>{_text(title)}</h1>\n{_chart(overview)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}: report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{over}{body}</body>\n</html>\n"
    )


def _section(facts: PictureFacts, charts: list[Chart]) -> str:
    claims = facts.record.claims
    by_name = {chart.name: chart for chart in charts}
    shown = [_chart(by_name[name]) for name in ("loss-steps", "loss-seconds") if name in by_name]
    scores = [_chart(by_name[name]) for name in ("stages", "seeds", "position") if name in by_name]
    sizes = [_chart(chart) for chart in charts if chart.name.startswith("bytes-")]
    return (
        f"<section>\n<h1>{_text(facts.title)}</h1>\n<p>{_text(claims.text('blurb'))}</p>\n"
        f'<p class="quiet">{_text(_origin(facts))}</p>\n{_headline(facts)}'
        f"<h2>Training</h2>\n{''.join(shown)}<h2>Score</h2>\n{_seed_table(facts)}{''.join(scores)}"
        f"<h2>Bytes</h2>\n{''.join(sizes)}<h2>What the judge says</h2>\n{_static(facts)}{_dynamic(facts)}</section>\n"
    )


def _origin(facts: PictureFacts) -> str:
    claims = facts.record.claims
    words = [claims.text(name) for name in ("author", "date", "track", "hardware")]
    return " · ".join([word for word in words if word] + [facts.folder.name])


def _headline(facts: PictureFacts) -> str:
    """The three figures that people look for first."""
    claims, scores = facts.record.claims, list(facts.seed_scores.values())
    bpb, size = claims.number("val_bpb"), claims.number("bytes_total")
    figures = [
        ("bits per byte", interval_text(scores).partition(" (")[0] if len(scores) > 1 else _number(bpb, ".4f")),
        ("bytes", _number(size, ",.0f")),
        ("seeds", str(len(scores) or len(claims.seeds) or "not told")),
    ]
    return (
        f'<div class="figures">{"".join(f"<div>{name}<b>{_text(value)}</b></div>" for name, value in figures)}</div>\n'
    )


def _seed_table(facts: PictureFacts) -> str:
    columns = {
        "val_loss": ".4f",
        "val_bpb": ".4f",
        "bytes_total": ",.0f",
        "train_seconds": ".1f",
        "eval_seconds": ".1f",
    }
    names = {"val_loss": "nats", "val_bpb": "bits/byte", "bytes_total": "bytes", "train_seconds": "train s",
             "eval_seconds": "eval s"}  # fmt: skip
    results = facts.record.claims.results
    if not results:
        return '<p class="quiet">submission.json has no results by seed.</p>\n'
    rows = [
        [str(seed), *(_number(held.get(name), form) for name, form in columns.items())]
        for seed, held in results.items()
    ]
    return _table(["seed", *(names[name] for name in columns)], rows)


def _static(facts: PictureFacts) -> str:
    code = facts.verdict.exit_code
    word = "not readable" if code == EXIT_NOT_READABLE else ("clean", *SEVERITIES[1:])[code]
    items = [(entry.severity, entry.rule, entry.message, entry.evidence) for entry in facts.verdict.findings]
    told = f"<h3>From reading (<code>records check</code>): {word}</h3>\n"
    return told + (_items(items) or '<p class="quiet">No finding.</p>\n')


def _dynamic(facts: PictureFacts) -> str:
    held = facts.verification
    if not held:
        return (
            '<h3>From running (<code>records verify</code>)</h3>\n<p class="quiet">Not run, or its result '
            "(<code>verify.json</code>) does not lie here.</p>\n"
        )
    words = {True: "held", False: "invalid", None: "note"}
    probes = [
        (words.get(_field(probe, "held")), _field(probe, "name"), _field(probe, "measured"), "")
        for probe in _list(held, "probes")
        if _field(probe, "held") is not False
    ]
    found = [
        tuple(_field(entry, name) for name in ("severity", "rule", "message", "evidence"))
        for entry in _list(held, "findings")
    ]
    head = f"<h3>From running (<code>records verify</code>): {_text(held.get('verdict'))}</h3>\n"
    tests = f"<details><summary>Tests that held or stayed open: {len(probes)}</summary>{_items(probes)}</details>\n"
    return head + _items(found) + tests


def _items(items: Iterable[tuple[Any, ...]]) -> str:
    """Findings and tests as a list: weight, rule, what it says, where it shows."""
    lines = []
    for weight, rule, message, evidence in items:
        kind = weight if weight in ("invalid", "doubtful", "held") else "note"
        place = f' <span class="quiet">({_text(evidence)})</span>' if evidence else ""
        lines.append(
            f'<li class="{kind}"><b>{_text(weight)}</b> <code>{_text(rule)}</code>: {_text(message)}{place}</li>'
        )
    return f'<ul class="findings">{"".join(lines)}</ul>\n' if lines else ""


def _chart(chart: Chart) -> str:
    caption = f"<figcaption>{_text(chart.caption)}</figcaption>"
    if chart.png is None:
        return f"<figure><h3>{_text(chart.title)}</h3>{caption}</figure>\n"
    source = base64.b64encode(chart.png).decode("ascii")
    alternative = escape(printable(f"{chart.title}. {chart.caption}"), quote=True)
    image = f'<img src="data:image/png;base64,{source}" alt="{alternative}">'
    return f"<figure><h3>{_text(chart.title)}</h3>{image}{caption}</figure>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{_text(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>\n'


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) and not isinstance(value, bool) else "not told"


def _text(value: Any) -> str:
    """What a stranger's file says, as text of the page."""
    return escape(printable(str(value)), quote=True)


def _list(tree: dict[str, Any], name: str) -> list[Any]:
    held = tree.get(name)
    return held if isinstance(held, list) else []


def _field(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None
