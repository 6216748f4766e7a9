"""Formats records as tables and writes the two report files."""

import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping

from benchmarks.accelerator.schedule import PARTS, Record

# One row per name and batch size; a record adds columns to it.
Rows = dict[tuple[object, object], Record]


def slug(kind: str) -> str:
    """Converts "NVIDIA H100 80GB HBM3" to "nvidia_h100_80gb_hbm3"."""
    return re.sub(r"\W+", "_", kind).strip("_").lower() or "unknown"


def text_of(value: object) -> str:
    """Formats a figure with four significant digits; None as "-"."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or value == 0:
        return str(value)
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 8)}f}"


def line_of(part: str, record: Mapping[str, object]) -> str:
    """Returns a record as one line of text."""
    figures = ", ".join(f"{k} {text_of(v)}" for k, v in record.items() if k not in ("name", "log"))
    return f"{part}: {record.get('name') or '-'}: {figures}"


class Report:
    """Writes `accelerator_<kind>.jsonl` and `.md`, both complete after every record."""

    def __init__(self, folder: pathlib.Path, device: Record, header: Iterable[str]) -> None:
        """Overwrites the files of a device.

        Args:
          folder: folder of the files.
          device: the record of the job "device".
          header: lines above the tables.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"accelerator_{slug(str(device['name']))}.md"
        self._header = [f"# {device['name']}", "", *(f"- {line}" for line in header)]
        self._parts: dict[str, Rows] = {}
        self._remarks: list[str] = []
        self.path.with_suffix(".jsonl").write_text("")
        self._append({"part": "device", **device})

    def add(self, part: str, record: Record) -> None:
        """Adds figures to a row, which is created if needed."""
        self._append({"part": part, **record})
        rows = self._parts.setdefault(part, {})
        rows.setdefault((record["name"], record.get("batch")), {}).update(record)
        self._write()

    def remark(self, part: str, name: str, text: str, log: str = "") -> None:
        """Records why figures of a job are missing; `log` is written to the JSON lines only."""
        self._append({"part": part, "name": name, "remark": text, "log": log})
        self._remarks.append(f"{part}{f', {name}' if name else ''}: {text}")
        self._write()

    def _append(self, record: Mapping[str, object]) -> None:
        with self.path.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _write(self) -> None:
        sections = ["\n".join(self._header)]
        for part, rows in self._parts.items():
            table = _table(list(rows.values()))
            sections.append(f"## {PARTS[part].title}\n\n{PARTS[part].note}\n\n{table}")
        if self._remarks:
            sections.append("\n".join(["## Not measured", "", *(f"- {r}" for r in self._remarks)]))
        self.path.write_text("\n\n".join(sections) + "\n")


def _table(rows: list[Record]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [["" if column == "name" else column for column in columns]]
    lines += [[text_of(row.get(column)) for column in columns] for row in rows]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], rule, *lines[1:]])
