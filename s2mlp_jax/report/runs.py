"""What the folders of sweeps and runs say: read from their JSON, without jax."""

import dataclasses
import json
import pathlib
import re
import typing

from s2mlp_jax.data.split import public_name
from s2mlp_jax.saved.metrics import judged_by, read_metrics, training_seconds

Json = dict[str, typing.Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      status: "done", "failed" or "unfinished".
      result: what `result.json` holds; empty unless the run is done.
      lines: of `metrics.jsonl`.
      environment: of the run's last start; empty if it never got so far.
      error: why it failed.
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
        """The evaluation that counts: of the averaged parameters, where there are any."""
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
        """The time of its training steps; its share, if it was trained together with others."""
        if not self.result:
            return 0.0
        whole = training_seconds(self.lines, self.result["batch_size"])
        return whole / self.result.get("together", 1)

    @property
    def started(self) -> str:
        """When its first start was, and how often it was resumed."""
        earlier = self.environment.get("earlier", [])
        first = (earlier or [self.environment])[0].get("time", "")
        return first + (f", resumed {len(earlier)} x" if earlier else "")

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Returns (epoch, value) wherever the metrics have a figure, such as "train/loss"."""
        if not self.result:
            return []
        per_epoch = self.result["steps"] / self.result["epochs"]
        return [(line["step"] / per_epoch, line[name]) for line in self.lines if name in line]


@dataclasses.dataclass(frozen=True)
class Study:
    """A sweep, or a single run as a sweep of one setting.

    Attributes:
      name: of its folder.
      settings: that were run, in order; with "overrides", and "paper", a row of the paper's table
        or None.
      baseline: the setting that the others are compared with, "" for none.
      note: on the whole table.
      seeds: runs of a setting, by seed.
      speed: of `speed.json` (`python -m s2mlp_jax.sweep --measure`); empty if it is not there.
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
      ValueError: if it is neither.
    """
    folder = pathlib.Path(folder)
    description = folder / "sweep.jsonl"
    if description.exists():
        head, *settings = read_metrics(description)
        rows = {line["setting"]: line for line in settings}
        seeds = {name: _seeds(name, folder / name) for name in rows}
        note = head.get("note", "")
        if any(seeds.values()) and (left := [name for name in rows if not seeds[name]]):
            for name in left:
                del rows[name], seeds[name]
            note = " ".join(filter(None, [note, f"Not run: {', '.join(left)}."]))
        results = [run.result for runs in seeds.values() for run in runs if run.result]
        # "digits" of "digits/1.0.0 test", "folder:images" of "folder:images val".
        data = {re.split("[/ ]", public_name(result["eval_data"]))[0] for result in results}
        return Study(
            name=folder.resolve().name,
            title=", ".join([head.get("title", folder.resolve().name), *sorted(data)]),
            config=head["config"],
            baseline=head.get("baseline", ""),
            note=note,
            settings=rows,
            seeds=seeds,
            speed=_read(folder / "speed.json"),
        )
    if (folder / "config.json").exists():
        name, config = folder.resolve().name, json.loads((folder / "config.json").read_text())
        if "training" in config:
            raise ValueError(f"{folder} is an exported model, of which there is no report.")
        return Study(
            name=name,
            title=f"Run {name}",
            config=config["model"]["name"],
            baseline="",
            note="",
            settings={name: {"overrides": {}, "paper": None}},
            seeds={name: [_run(name, config["seed"], folder)]},
        )
    raise ValueError(
        f"{folder} is the folder of no sweep (sweep.jsonl) and of no run (config.json)."
    )


def _read(path: pathlib.Path) -> Json:
    return json.loads(path.read_text()) if path.exists() else {}


def _seeds(setting: str, folder: pathlib.Path) -> list[Run]:
    seeds = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    return [_run(setting, seed, folder / str(seed)) for seed in seeds]


def _run(setting: str, seed: int, folder: pathlib.Path) -> Run:
    result, failure = _read(folder / "result.json"), _read(folder / "failure.json")
    return Run(
        setting=setting,
        seed=seed,
        folder=folder,
        status="done" if result else "failed" if failure else "unfinished",
        result=result,
        lines=read_metrics(folder / "metrics.jsonl"),
        environment=_read(folder / "environment.json"),
        error=failure.get("error", ""),
    )
