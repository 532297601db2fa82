"""The results as one page that stands by itself: figures, distributions, and every sample over time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from moshi_agent.evaluation.pictures import histogram, timeline
from moshi_agent.evaluation.suites import Figure, Result
from moshi_agent.outputs import naming, whole_file
from moshi_agent.plural import counted

_MOST_PICTURES = 100  # of a data set
_STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #667; --line: #ddd; }
:root { --bar: #4a5568; --event: #fef3a0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #eee; --quiet: #99a; --line: #444; --bar: #9aa5b8; --event: #5a4f10; }
}
body { font: 15px/1.4 system-ui, sans-serif; max-width: 940px; margin: 2em auto; padding: 0 1em; }
body { color: var(--text); }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { display: block; margin: .5em 0; } .row { display: flex; flex-wrap: wrap; gap: .5em 3em; }
svg text { font-size: 10px; fill: var(--quiet); } .word { fill: var(--text) !important; }
.input { fill: #2b6cb0; } .output { fill: #c05621; } .bar { fill: var(--bar); } .event { fill: var(--event); }
.axis { stroke: var(--line); }
"""


def write_report(path: Path, model: str, results: Sequence[Result], left_out: Sequence[str]) -> None:
    """Writes the page.

    Raises:
        OutputError: it cannot be written.
        AudioError, DataError: a sample is not as it was when it was measured.
    """
    title = f"Turn taking of {escape(model)}"
    seen: set[tuple[str, str]] = set()
    body = [f"<h1>{title}</h1>", _table(results), *(f"<p>Left out: {escape(line)}.</p>" for line in left_out)]
    for result in results:
        is_new = (result.data_set, result.task) not in seen
        seen.add((result.data_set, result.task))
        body += [_heading(result)] if is_new else []
        body.append(_distributions(result))
        body += [_timelines(result)] if is_new else []  # they are the same for all sources of words
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    with whole_file(path) as temporary, naming(path):
        temporary.write_text(page, encoding="utf-8")


def _table(results: Sequence[Result]) -> str:
    rows = [_row(result, figure) for result in results for figure in result.figures]
    head = "".join(f"<th>{name}</th>" for name in ("data set", "words by", "measure", "mean", "of", "better"))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _heading(result: Result) -> str:
    task = "" if result.task == result.data_set else f": {result.task.replace('_', ' ')}"
    return f"<h2>{escape(result.data_set)}{escape(task)}</h2>"


def _row(result: Result, figure: Figure) -> str:
    return (
        f"<tr><td>{escape(result.data_set)}</td><td>{result.words or 'sound'}</td><td>{figure.name}</td>"
        f'<td class="number">{figure.mean:.3f} {figure.unit}</td><td class="number">{figure.count}</td>'
        f"<td>{figure.better}</td></tr>"
    )


def _distributions(result: Result) -> str:
    """Of the measures that are more than yes or no."""
    pictures = [
        histogram(f"{figure.name}, {result.words or 'sound'}", values, figure.unit)
        for figure in result.figures
        if figure.unit and (values := [value for one in result.values for value in one.get(figure.name, ())])
    ]
    return f'<div class="row">{"".join(pictures)}</div>'


def _timelines(result: Result) -> str:
    shown = result.samples[:_MOST_PICTURES]
    pictures = [f"<h4>{escape(sample.folder.name)}</h4>{timeline(sample)}" for sample in shown]
    rest = len(result.samples) - len(shown)
    more = f"<p>{counted(rest, 'more sample')} not drawn.</p>" if rest else ""
    return (
        f"<details><summary>{counted(len(shown), 'sample')}: the user above, the model below, in seconds"
        f'</summary><div class="wide">{"".join(pictures)}{more}</div></details>'
    )
