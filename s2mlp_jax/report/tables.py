"""The tables of a report: our results beside the paper's, all runs, and their environments."""

import dataclasses
import json
import statistics
import typing

from s2mlp_jax.data.split import public_name
from s2mlp_jax.report.runs import Json, Run, Study
from s2mlp_jax.report.statistics import difference_to_baseline, rank_correlation, spread


@dataclasses.dataclass(frozen=True)
class Table:
    """Text cells; the first column is left-aligned, the others are right-aligned.

    Attributes:
      groups: (title, number of columns) of the cells of a line above the head, in order; empty for
        none.
      notes: sentences below the table; cells refer to them by number, from 1.
    """

    head: list[str]
    rows: list[list[str]]
    groups: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def settings_table(study: Study) -> Table:
    """One row per setting: mean ± standard deviation over the seeds, and the paper's row."""
    printed = any(setting["paper"] for setting in study.settings.values())
    head = ["setting", "top-1 %", "top-5 %"]
    head += [f"top-1 − {study.baseline}"] if study.compared else []
    head += ["parameters", "MACs per image", "seeds"]
    groups = [("measured here", len(head))] if printed else []
    sizes = [
        key
        for key in ("parameters", "macs")
        if any((setting["paper"] or {}).get(key) for setting in study.settings.values())
    ]
    if printed:
        paper = [
            "row",
            "top-1 %",
            "top-5 %",
            *({"parameters": "params", "macs": "MACs"}[k] for k in sizes),
        ]
        head += paper
        groups.append(("printed in the paper", len(paper)))
    rows, notes = [], []
    for name, setting in study.settings.items():
        runs = study.done(name)
        row = [name, _percent(runs, "accuracy_top1"), _percent(runs, "accuracy_top5")]
        if study.compared:
            row.append(_difference(study, name))
        row += [_of_all(runs, "parameters"), _of_all(runs, "macs"), _count(study, name)]
        if printed:
            paper_row = setting["paper"] or {}
            mark = ""
            if paper_row.get("note"):
                notes.append(paper_row["note"])
                mark = f" [{len(notes)}]"
            row += [
                f"{paper_row.get('label', '')}{mark}",
                *(f"{paper_row[k]:.1f}" if paper_row else "" for k in ("top1", "top5")),
                *(paper_row.get(k, "") for k in sizes),
            ]
        rows.append(row)
    return Table(head, rows, groups, notes)


def speed_table(study: Study) -> Table | None:
    """Accuracy and measured costs of each setting; None if the costs were not measured."""
    measured = study.speed.get("settings", {})
    if not measured:
        return None
    base = measured.get(study.baseline)
    head = ["setting", "top-1 %", "parameters", "MACs per image", "training images/s"]
    head += [f"of {study.baseline}"] if base else []
    head += ["inference images/s"] + ([f"of {study.baseline}"] if base else []) + ["memory, MiB"]
    rows = []
    for name in study.settings:
        runs, speed = study.done(name), measured.get(name)
        if speed is None:
            continue
        row = [name, _percent(runs, "accuracy_top1"), _of_all(runs, "parameters")]
        row.append(_of_all(runs, "macs"))
        for figure in ("train_images_per_second", "eval_images_per_second"):
            row.append(f"{speed[figure]:,.0f}")
            row += [f"{speed[figure] / base[figure]:.2f}"] if base else []
        rows.append([*row, f"{speed['memory_bytes'] / 2**20:,.1f}"])
    environment = dict(_provenance(study.speed["environment"]))
    note = (
        f"Images per second: medians over {study.speed['rounds']} rounds, in each of which every "
        "setting had its turn, on synthetic images; training is the whole step, inference a batch "
        "of an evaluation. Memory: of a training step as XLA lays it out. "
        f"Commit {environment['commit']}; {environment['versions']}; {environment['hardware']}."
    )
    return Table(head, rows, notes=[note])


def _percent(runs: list[Run], figure: str) -> str:
    if not runs:
        return "–"
    values = [100 * run.figure(figure) for run in runs]
    deviation = spread(values)
    return f"{statistics.fmean(values):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _difference(study: Study, name: str) -> str:
    if name == study.baseline:
        return ""
    difference = difference_to_baseline(study, name)
    if difference is None:
        return "–"
    text = f"{difference.mean:+.2f}"
    return text if difference.half_width is None else f"{text} ± {difference.half_width:.2f}"


def _count(study: Study, name: str) -> str:
    runs = study.seeds[name]
    done = len(study.done(name))
    others = [
        f"{count} {status}"
        for status in ("failed", "unfinished")
        if (count := sum(run.status == status for run in runs))
    ]
    return ", ".join([str(done), *others])


def _of_all(runs: list[Run], figure: str, form: str = ",") -> str:
    return _range([run.result[figure] for run in runs], form)


def _range(values: list[float], form: str = ",") -> str:
    """Returns the common value, or a range such as "2 to 12"; "–" for no values."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"


def _names(runs: list[Run], which: str) -> str:
    """Returns the names of the runs' data sets, each once."""
    return ", ".join(dict.fromkeys(public_name(run.result[which]) for run in runs))


def sentences(study: Study) -> list[str]:
    """Returns sentences about a table: how it was measured and how it compares to the paper."""
    said = []
    runs = [run for run in study.runs if run.status == "done"]
    if runs:
        models = {run.result["model"] for run in runs}
        counts = [run.figure("count") for run in runs]
        averaged = {run.prefix for run in runs} == {"eval_ema"}
        said.append(
            (f"{models.pop()}: " if len(models) == 1 else "")
            + f"{_of_all(runs, 'epochs', '.4g')} epochs of {_of_all(runs, 'train_images')} images "
            f"({_names(runs, 'train_data')}), {_of_all(runs, 'steps')} steps of "
            f"{_of_all(runs, 'batch_size')}; the last evaluation"
            f"{', of the averaged weights' if averaged else ''}, on {_names(runs, 'eval_data')}: "
            f"{_range(counts)} images, so that one is {100 / min(counts):.2g} points. "
            "± is the standard deviation over the seeds."
        )
    if study.compared and any(len(study.done(name)) > 1 for name in study.settings):
        said.append(
            f"The column “top-1 − {study.baseline}” is the mean difference seed by seed, ± half "
            "its 95 % confidence interval (Student's t)."
        )
    ranks = rank_correlation(study)
    if ranks:
        said.append(
            f"Rank correlation of our order with the paper's: Spearman's ρ = {ranks.rho:.2f} over "
            f"{ranks.settings} settings."
        )
    if study.note:
        said.append(study.note)
    return said


class Provenance:
    """The distinct environments of the runs of a report, numbered from 1."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, run: Run) -> str:
        """Returns the number of a run's environment; "" if it has none."""
        if not run.environment:
            return ""
        key = json.dumps(_provenance(run.environment))
        return str(self._numbers.setdefault(key, len(self._numbers) + 1))

    def lines(self) -> list[list[tuple[str, str]]]:
        """Returns, for each number, the description as (name, text) pairs."""
        return [[tuple(pair) for pair in json.loads(key)] for key in self._numbers]


def _provenance(environment: Json) -> list[tuple[str, str]]:
    packages = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    devices = environment["devices"]
    return [
        ("command", " ".join(["python", *environment["command"]])),
        ("commit", environment["git_commit"]),
        ("versions", f"Python {environment['python']}, {packages}"),
        (
            "hardware",
            f"{len(devices)} x {devices[0]}, {environment['processor']}, "
            f"{environment['processor_cores']} cores, {environment['processes']} process(es), "
            f"{environment['platform']}",
        ),
    ]


def runs_table(study: Study, provenance: Provenance) -> Table:
    """One row per run: results, training time, start and environment."""
    head = ["setting", "seed", "status", "top-1 %", "top-5 %", "loss", "training", "started", "run"]
    rows = []
    for run in study.runs:
        figures = ["–"] * 4
        if run.status == "done":
            figures = [
                f"{100 * run.figure('accuracy_top1'):.2f}",
                f"{100 * run.figure('accuracy_top5'):.2f}",
                f"{run.figure('loss'):.4f}",
                f"{run.seconds:.1f} s",
            ]
        status = run.status + (f": {run.error.splitlines()[0]}" if run.error else "")
        rows.append(
            [run.setting, str(run.seed), status, *figures, run.started, provenance.number(run)]
        )
    return Table(head, rows)


def settings_records(study: Study) -> list[dict[str, typing.Any]]:
    """Returns one record per setting for the CSV file; accuracies in percent."""
    records = []
    for name, setting in study.settings.items():
        runs, paper = study.done(name), setting["paper"] or {}
        record: dict[str, typing.Any] = {"sweep": study.name, "setting": name, "seeds": len(runs)}
        for figure in ("accuracy_top1", "accuracy_top5"):
            values = [100 * run.figure(figure) for run in runs]
            record[f"{figure}_mean"] = round(statistics.fmean(values), 4) if values else None
            deviation = spread(values)
            record[f"{figure}_std"] = None if deviation is None else round(deviation, 4)
        difference = difference_to_baseline(study, name)
        record["difference_to_baseline"] = difference and round(difference.mean, 4)
        half = difference.half_width if difference else None
        record["difference_ci95"] = None if half is None else round(half, 4)
        record["parameters"] = runs[0].result["parameters"] if runs else None
        record["macs"] = runs[0].result["macs"] if runs else None
        for key in ("label", "top1", "top5", "parameters", "macs", "note"):
            record[f"paper_{key}"] = paper.get(key)
        records.append(record)
    return records


def runs_records(study: Study) -> list[dict[str, typing.Any]]:
    """Returns one record per run for the CSV file; accuracies in percent."""
    records = []
    for run in study.runs:
        done, environment = run.status == "done", run.environment
        record: dict[str, typing.Any] = {
            "sweep": study.name,
            "setting": run.setting,
            "seed": run.seed,
            "status": run.status,
            "accuracy_top1": round(100 * run.figure("accuracy_top1"), 4) if done else None,
            "accuracy_top5": round(100 * run.figure("accuracy_top5"), 4) if done else None,
            "loss": run.figure("loss") if done else None,
            "images": run.figure("count") if done else None,
            "steps": run.result.get("steps"),
            "training_seconds": round(run.seconds, 2) if done else None,
            "started": run.started,
        }
        record.update(_provenance(environment) if environment else {})
        record["error"] = run.error
        records.append(record)
    return records
