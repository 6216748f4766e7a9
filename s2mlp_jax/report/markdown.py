"""Tables and whole reports as Markdown."""

import os
import urllib.parse
from collections.abc import Mapping, Sequence

from s2mlp_jax.escape import code, markdown
from s2mlp_jax.report.runs import Study
from s2mlp_jax.report.tables import (
    Provenance,
    Table,
    runs_table,
    sentences,
    settings_table,
    speed_table,
)


def report(studies: Sequence[Study], plots: Mapping[str, Sequence[str]]) -> str:
    """Returns the whole report as Markdown.

    Args:
      plots: name of a study -> the names of its PNG files.
    """
    provenance, parts = Provenance(), ["# Report"]
    for study in studies:
        parts += summary(study)
        for name in plots.get(study.name, ()):
            place = urllib.parse.quote(os.fsencode(name))
            parts.append(f"![{markdown(study.title)}]({place})")
        parts += ["<details><summary>Every run</summary>"]
        parts += [render(runs_table(study, provenance)), "</details>"]
    parts.append("## What was run")
    for number, pairs in enumerate(provenance.lines(), start=1):
        listed = "\n".join(f"- {name}: {code(text)}" for name, text in pairs)
        parts.append(f"{number}.\n{listed}")
    return "\n\n".join(parts) + "\n"


def summary(study: Study) -> list[str]:
    """Returns the paragraphs of a study, without its plots and its table of runs."""
    heading = [f"## {markdown(study.title)}", code(study.config)]
    parts = [*heading, render(settings_table(study)), *map(markdown, sentences(study))]
    if speed := speed_table(study):
        parts.append(render(speed))
    return parts


def render(table: Table) -> str:
    """Returns a table and its notes as Markdown."""
    head = list(table.head)
    first = 0
    for title, columns in table.groups[1:]:  # Markdown has no cells that span columns
        first = len(head) - columns
        head[first:] = [f"{title.split()[-1]}: {name}" for name in head[first:]]
    lines = [
        _line(head),
        "| " + " | ".join([":--", *["--:"] * (len(head) - 1)]) + " |",
        *(_line(row) for row in table.rows),
    ]
    notes = [f"[{number}] {markdown(note)}" for number, note in enumerate(table.notes, start=1)]
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + " |"
