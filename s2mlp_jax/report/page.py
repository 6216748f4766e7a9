"""The report as one self-contained HTML page."""

import base64
import html
from collections.abc import Mapping, Sequence

from s2mlp_jax.escape import printable
from s2mlp_jax.report.runs import Study
from s2mlp_jax.report.tables import (
    Provenance,
    Table,
    runs_table,
    sentences,
    settings_table,
    speed_table,
)

_STYLE = """
:root { color-scheme: light; --line: #d8dde3; --quiet: #5b6672; --paper: #f5f7f9; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; margin: 0 auto; padding: 1rem;
  max-width: 72rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
nav a { margin-right: 1rem; } a { color: #0b5cad; }
p, li { max-width: 48rem; } .quiet, caption { color: var(--quiet); font-size: .875rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #1c2430; vertical-align: bottom; }
thead tr.groups th { border-bottom: 1px solid var(--line); text-align: center; font-weight: 400;
  color: var(--quiet); background: none; }
td.paper, th.paper { background: var(--paper); }
tr.baseline td { font-weight: 600; }
td.failed { color: #a4262c; white-space: normal; text-align: left; min-width: 12rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
code { font-size: .85em; background: var(--paper); padding: .1em .3em; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .875rem; }
dt { color: var(--quiet); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
"""


def report(studies: Sequence[Study], plots: Mapping[str, Mapping[str, bytes]]) -> str:
    """Returns the page.

    Args:
      plots: name of a study -> title of a plot -> the plot as PNG.
    """
    provenance, body = Provenance(), []
    for study in studies:
        body.append(f'<section id="{_text(study.name)}"><h2>{_text(study.title)}</h2>')
        body.append(f'<p class="quiet"><code>{_text(study.config)}</code></p>')
        body.append(_render(settings_table(study), baseline=study.baseline))
        body += [f"<p>{_text(sentence)}</p>" for sentence in sentences(study)]
        if speed := speed_table(study):
            body.append(_render(speed, baseline=study.baseline))
        for title, png in plots.get(study.name, {}).items():
            data = base64.b64encode(png).decode()
            body.append(f'<img alt="{_text(title)}" src="data:image/png;base64,{data}">')
        body.append("<details><summary>Every run</summary>")
        body.append(_render(runs_table(study, provenance)))
        body.append("</details></section>")
    body.append("<section><h2>What was run</h2>")
    body.append('<p class="quiet">The numbers are those of the column “run” above.</p><ol>')
    for pairs in provenance.lines():
        listed = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in pairs)
        body.append(f"<li><dl>{listed}</dl></li>")
    body.append("</ol></section>")
    links = "".join(f'<a href="#{_text(s.name)}">{_text(s.title)}</a> ' for s in studies)
    navigation = f"<nav>{links}</nav>" if len(studies) > 1 else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(', '.join(study.title for study in studies))}</title>"
        f"<style>{_STYLE}</style></head><body><h1>Report</h1>{navigation}"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _render(table: Table, baseline: str = "") -> str:
    ours = table.groups[0][1] if len(table.groups) > 1 else len(table.head)

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{_class(column >= ours, text)}>{_text(text)}</{tag}>"
            for column, text in enumerate(texts)
        )

    groups = "".join(f'<th colspan="{columns}">{_text(t)}</th>' for t, columns in table.groups)
    head = (f'<tr class="groups">{groups}</tr>' if groups else "") + (
        f"<tr>{cells('th', table.head)}</tr>"
    )
    rows = "".join(
        f"<tr{' class=baseline' if baseline and row[0] == baseline else ''}>{cells('td', row)}</tr>"
        for row in table.rows
    )
    notes = "".join(
        f'<p class="quiet">[{number}] {_text(note)}</p>'
        for number, note in enumerate(table.notes, start=1)
    )
    whole = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll">{whole}</div>{notes}'


def _class(paper: bool, text: str) -> str:
    kind = "paper" if paper else "failed" if text.startswith("failed") else ""
    return f' class="{kind}"' if kind else ""


def _text(text: str) -> str:
    return html.escape(printable(text))
