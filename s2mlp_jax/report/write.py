"""Writes the files of a report."""

import csv
import io
import pathlib
import typing
from collections.abc import Sequence

from s2mlp_jax.report import markdown, page, plots, tables
from s2mlp_jax.report.runs import Study, read_study


def write_report(
    workdirs: Sequence[str | pathlib.Path], output: str | pathlib.Path = ""
) -> pathlib.Path:
    """Writes report.md, report.html, settings.csv, runs.csv and the plots as PNG.

    Args:
      workdirs: folders of sweeps or of single runs; one section each.
      output: a folder; "" for `report` in the first workdir.

    Returns:
      The folder that was written.

    Raises:
      ValueError: if a folder is neither, or two folders have the same name.
    """
    folder = default_folder(workdirs, output)
    write_studies(read_studies(workdirs), folder)
    return folder


def default_folder(
    workdirs: Sequence[str | pathlib.Path], output: str | pathlib.Path
) -> pathlib.Path:
    """Returns the folder of a report: `output`, or `report` in the first workdir."""
    return pathlib.Path(output) if output else pathlib.Path(workdirs[0]) / "report"


def read_studies(workdirs: Sequence[str | pathlib.Path]) -> list[Study]:
    """Reads the folders of sweeps or of single runs.

    Raises:
      ValueError: if a folder is neither, or two folders have the same name.
    """
    studies = [read_study(workdir) for workdir in workdirs]
    names = [study.name for study in studies]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"Two folders are named {', '.join(sorted(twice))}; a report needs a name each."
        )
    return studies


def write_studies(studies: Sequence[Study], folder: pathlib.Path) -> None:
    """Writes the files listed in `write_report`."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {study.name: _draw(study) for study in studies}
    files: dict[str, list[str]] = {}
    for name, drawn in pictures.items():
        files[name] = []
        for title, png in drawn.items():
            files[name].append(f"{name}_{title}.png")
            (folder / files[name][-1]).write_bytes(png)
    (folder / "report.md").write_text(markdown.report(studies, files), encoding="utf-8")
    (folder / "report.html").write_text(page.report(studies, pictures), encoding="utf-8")
    for name, records in (
        ("settings.csv", [r for study in studies for r in tables.settings_records(study)]),
        ("runs.csv", [r for study in studies for r in tables.runs_records(study)]),
    ):
        _write_csv(folder / name, records)


def _draw(study: Study) -> dict[str, bytes]:
    """Returns title -> plot as PNG; empty if no run is finished yet."""
    if not any(run.status == "done" for run in study.runs):
        return {}
    drawn = {}
    pictures = {"settings": plots.settings, "curves": plots.curves}
    if study.speed:
        pictures["trade_offs"] = plots.trade_offs
    for title, draw in pictures.items():
        file = io.BytesIO()
        draw(study).savefig(file, format="png", dpi=150)
        drawn[title] = file.getvalue()
    return drawn


def _write_csv(path: pathlib.Path, records: Sequence[dict[str, typing.Any]]) -> None:
    columns = list(dict.fromkeys(column for record in records for column in record))
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)
