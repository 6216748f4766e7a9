"""Reads the JSON files of sweeps and runs, without jax."""

import dataclasses
import pathlib
import re
import typing

from s2mlp_jax.data.split import public_name
from s2mlp_jax.progress import plural, say
from s2mlp_jax.saved.files import Folder, read_json, read_json_lines
from s2mlp_jax.saved.metrics import judged_by, read_metrics, training_seconds

Json = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
      status: "done", "failed" or "unfinished".
      result: content of `result.json`; empty unless the run is done.
      lines: lines of `metrics.jsonl`.
      environment: environment of the run's last start; empty if none was written.
      error: the error message of a failed run.
    """

    setting: str
    seed: int
    folder: pathlib.Path
    status: str
    result: Json
    lines: list[Json]
    environment: Json
    error: str = ""

    @property
    def prefix(self) -> str:
        """Prefix of the reported figures: the averaged parameters' if the run has them."""
        return judged_by(self.evaluation)

    @property
    def evaluation(self) -> Json:
        """The last evaluation; empty unless the run is done."""
        return self.result.get("evaluation", {})

    def figure(self, name: str) -> float:
        """Returns a figure of the last evaluation: accuracy_top1, accuracy_top5, loss, count."""
        return self.evaluation[f"{self.prefix}/{name}"]

    @property
    def seconds(self) -> float:
        """Seconds of the training steps; the run's share if it was trained with others."""
        if not self.result:
            return 0.0
        whole = training_seconds(self.lines, self.result["batch_size"])
        return whole / self.result.get("together", 1)

    @property
    def started(self) -> str:
        """The time of the first start, the number of resumes, and what changed or was lost."""
        starts = [*self.environment.get("earlier", []), self.environment]
        facts = [starts[0].get("time", "")]
        if len(starts) > 1:
            facts.append(f"resumed {len(starts) - 1} x")
        if changes := [change for start in starts for change in start.get("changes", [])]:
            facts.append(f"changed {'; '.join(changes)}")
        if lost := sum(start.get("lost_metrics_lines", 0) for start in starts):
            facts.append(f"{plural(lost, 'line')} of metrics.jsonl lost")
        return ", ".join(facts)

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Returns (epoch, value) of each metrics line with a figure such as "train/loss"."""
        if not self.result:
            return []
        per_epoch = self.result["steps"] / self.result["epochs"]
        return [(line["step"] / per_epoch, line[name]) for line in self.lines if name in line]


@dataclasses.dataclass(frozen=True)
class Study:
    """A sweep, or a single run as a sweep of one setting.

    Attributes:
      name: name of its folder.
      settings: the settings that were run, in order; each has "overrides" and "paper" (a row of
        the paper's table, or None).
      baseline: the setting that the others are compared with; "" for none.
      note: note on the whole table.
      seeds: setting -> its runs, ordered by seed.
      speed: content of `speed.json` (`python -m s2mlp_jax.sweep --measure`); empty if the file
        does not exist.
    """

    name: str
    title: str
    config: str
    baseline: str
    note: str
    settings: dict[str, Json]
    seeds: dict[str, list[Run]]
    speed: Json = dataclasses.field(default_factory=dict)

    def done(self, setting: str) -> list[Run]:
        """Returns the finished runs of a setting."""
        return [run for run in self.seeds[setting] if run.status == "done"]

    @property
    def compared(self) -> bool:
        """Whether there is a baseline and something to compare with it."""
        return self.baseline in self.settings and len(self.settings) > 1

    @property
    def runs(self) -> list[Run]:
        """All runs, in order."""
        return [run for setting in self.settings for run in self.seeds[setting]]


def read_study(folder: str | pathlib.Path) -> Study:
    """Reads the folder of a sweep or of a single run.

    Raises:
      ValueError: if the folder is neither.
    """
    files = Folder(pathlib.Path(folder))
    folder_name = files.path.resolve().name
    if files.check_kind("sweep", "run") == "sweep":
        head, *settings = read_json_lines(files.sweep_file) or [{}]
        rows = {line["setting"]: line for line in settings}
        seeds = {name: _seeds(name, files.path / name) for name in rows}
        note = head.get("note", "")
        if any(seeds.values()) and (left := [name for name in rows if not seeds[name]]):
            for name in left:
                del rows[name], seeds[name]
            note = " ".join(filter(None, [note, f"Not run: {', '.join(left)}."]))
        results = [run.result for runs in seeds.values() for run in runs if run.result]
        # "digits/1.0.0 test" -> "digits", "folder:images val" -> "folder:images".
        data = {re.split("[/ ]", public_name(result["eval_data"]))[0] for result in results}
        return Study(
            name=folder_name,
            title=", ".join([head.get("title", folder_name), *sorted(data)]),
            config=head.get("config", ""),
            baseline=head.get("baseline", ""),
            note=note,
            settings=rows,
            seeds=seeds,
            speed=_read(files.speed_file),
        )
    config = read_json(files.config_file)
    try:
        name, seed = config["model"]["name"], config["seed"]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{files.config_file} is not the config of a run.") from error
    return Study(
        name=folder_name,
        title=f"Run {folder_name}",
        config=name,
        baseline="",
        note="",
        settings={folder_name: {"overrides": {}, "paper": None}},
        seeds={folder_name: [_run(folder_name, seed, files.path)]},
    )


def _read(path: pathlib.Path) -> Json:
    """Reads a JSON file; {} if it is missing, or damaged, which is printed."""
    if not path.exists():
        return {}
    try:
        content = read_json(path)
        if isinstance(content, dict):
            return content
        reason = f"{path} holds no object."
    except ValueError as error:
        reason = str(error)
    say(f"Left out of the report: {reason}")
    return {}


def _seeds(setting: str, folder: pathlib.Path) -> list[Run]:
    seeds = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    return [_run(setting, seed, folder / str(seed)) for seed in seeds]


def _run(setting: str, seed: int, folder: pathlib.Path) -> Run:
    files = Folder(folder)
    result, failure = _read(files.result_file), _read(files.failure_file)
    return Run(
        setting=setting,
        seed=seed,
        folder=folder,
        status="done" if result else "failed" if failure else "unfinished",
        result=result,
        lines=read_metrics(files.metrics_file),
        environment=_read(files.environment_file),
        error=failure.get("error", ""),
    )
