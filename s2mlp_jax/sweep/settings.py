"""The contents of a sweep: its settings, its runs, their cost, and this machine's share."""

import dataclasses
import json
import pathlib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence

import jax
import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.data.sources import Split
from s2mlp_jax.saved.files import Folder, read_json_lines, write_text
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train.create import create_experiment, open_data
from s2mlp_jax.train.experiment import Experiment

_NAME = re.compile(r"[A-Za-z0-9][\w.,+=-]*")


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
      cost: multiply-accumulates of all its forward passes.
    """

    setting: str
    seed: int
    config: ml_collections.ConfigDict
    cost: int

    def folder(self, workdir: pathlib.Path) -> RunFolder:
        """Returns the run's folder, SETTING/SEED in the sweep's workdir."""
        return RunFolder(workdir / self.setting / str(self.seed))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of a sweep that this process trains, in order, and all settings of the sweep.

    Attributes:
      settings: name -> the fields that it changes, for all settings of the config.
      changes: fields of the config that the command line changed, in all runs.
      shard: part of the sweep that these runs are, such as "0/1".
      table: the table that a report shows next to the results; see `configs/ablation.py`.
    """

    config_path: str
    settings: Mapping[str, Mapping[str, typing.Any]]
    changes: Mapping[str, typing.Any]
    table: Mapping[str, typing.Any]
    runs: Sequence[SweepRun]
    shard: str
    _experiments: Mapping[str, Experiment]
    _data: "_Data"

    def experiment(self, run: SweepRun, devices: Sequence[jax.Device] | None = None) -> Experiment:
        """Returns a run's experiment, on all devices by default; opens each data set once."""
        data = config_lib.to_options(run.config).data
        return create_experiment(run.config, devices, splits=self._data.open(data))

    def experiments(
        self, runs: Sequence[SweepRun], devices: Sequence[jax.Device]
    ) -> list[Experiment]:
        """Returns the experiments of runs; those of one setting share all but the seed."""
        bases: dict[str, Experiment] = {}
        for run in runs:
            if run.setting not in bases:
                bases[run.setting] = self.experiment(run, devices)
        return [bases[run.setting].with_seed(run.seed) for run in runs]

    def describe(self, runs: Sequence[SweepRun]) -> Iterator[str]:
        """Yields a table of the runs' settings with their cost, and a line with the total."""
        yield f"{'setting':<20}{'parameters':>14}{'MACs per image':>18}{'steps':>10}{'seeds':>7}"
        for name, one in self._experiments.items():
            seeds = sum(run.setting == name for run in runs)
            if seeds:
                yield (
                    f"{name:<20}{one.parameters:>14,}{one.macs_per_image:>18,}"
                    f"{one.total_steps:>10,}{seeds:>7}"
                )
        total = sum(run.cost for run in runs)
        yield (
            f"{len(runs)} runs; their training steps take {6 * total:.3g} floating-point "
            "operations (2 per multiply-accumulate forward, twice as many backward)"
        )

    def write_description(self, workdir: pathlib.Path) -> None:
        """Writes `sweep.jsonl`: one line about the sweep, then one per setting.

        Raises:
          ValueError: if the folder is of another sweep, or of this one with other changes.
        """
        path = Folder(workdir).sweep_file
        changes = config_lib.that_alter_numbers(config_lib.flatten(self.changes))
        for line in read_json_lines(path)[:1]:
            if pathlib.Path(line["config"]).name != pathlib.Path(self.config_path).name:
                raise ValueError(
                    f"{workdir} belongs to the sweep {line['config']}; take another --workdir "
                    f"for {self.config_path}."
                )
            before = line["changes"]
            if different := config_lib.list_differences(before, changes, "unchanged", "unchanged"):
                raise ValueError(
                    f"{workdir} has runs with other fields, which a report must not compare with "
                    f"these: {'; '.join(different)}. Take another --workdir, or the same fields."
                )
        workdir.mkdir(parents=True, exist_ok=True)
        head = {name: value for name, value in self.table.items() if name != "rows"}
        first = {"config": self.config_path, "changes": changes, **head}
        lines: list[Mapping[str, typing.Any]] = [first]
        for name, overrides in self.settings.items():
            paper = self.table.get("rows", {}).get(name)
            lines.append({"setting": name, "overrides": dict(overrides), "paper": paper})
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


class _Data:
    """The data sets in use, each opened once."""

    def __init__(self) -> None:
        self._opened: dict[tuple[typing.Any, ...], tuple[Split, Split]] = {}

    def open(self, data: DataOptions) -> tuple[Split, Split]:
        key = (
            data.name,
            data.data_dir,
            data.train_split,
            data.eval_split,
            data.cache,
            data.channels,
        )
        if key not in self._opened:
            self._opened[key] = open_data(data)
        return self._opened[key]


def open_sweep(
    config_path: str,
    overrides: Mapping[str, typing.Any] | None = None,
    seeds: int = 1,
    only: str = "",
    shard: str = "0/1",
) -> Sweep:
    """Loads a sweep and checks all of its settings.

    Args:
      config_path: such as "configs/ablation_shift.py:digits"; `configs/ablation.py` lists what such
        a config defines.
      overrides: fields to change in all runs, such as {"train.epochs": 5.0}.
      seeds: number of seeds per setting, 0 to seeds - 1.
      only: "a,b" for these settings only; "" for all.
      shard: "i/n", the i-th, from 0, of n parts of about equal cost; whole runs, in order.

    Raises:
      ValueError: if the config has no sweep, a setting is not allowed, data are missing, ...
    """
    module, argument = config_lib.load_module(config_path)
    if not hasattr(module, "sweep"):
        raise ValueError(f"{config_path} has no sweep(): it is the config of a single run.")
    settings = module.sweep(*argument)
    table = module.table(*argument) if hasattr(module, "table") else {}
    overrides = dict(overrides or {})
    _check_settings(config_path, settings, overrides)
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}.")
    wanted = _wanted(settings, only)
    part, parts = _parse_shard(shard)

    experiments: dict[str, Experiment] = {}
    data = _Data()
    for name in settings:
        try:
            config = config_lib.load_config(config_path, {**overrides, **settings[name]})
            # Only the number of images is needed here, so nothing is decoded.
            wanted_data = dataclasses.replace(config_lib.to_options(config).data, cache=False)
            splits = data.open(wanted_data)
            experiments[name] = create_experiment(config, splits=splits)
            experiments[name].check_initial()
        except ValueError as error:
            raise ValueError(f"Setting {name}: {error}") from error
    runs = []
    for name in wanted:
        one = experiments[name]
        cost = one.total_steps * one.options.train.batch_size * one.macs_per_image
        for seed in range(seeds):
            runs.append(SweepRun(name, seed, config_lib.override(one.config, {"seed": seed}), cost))
    share = _share(runs, part, parts)
    return Sweep(config_path, settings, overrides, table, share, shard, experiments, data)


def _check_settings(
    config_path: str, settings: typing.Any, overrides: Mapping[str, typing.Any]
) -> None:
    if not isinstance(settings, Mapping) or not settings:
        raise ValueError(f"sweep() of {config_path} must return a dict of name -> overrides.")
    for name, changes in settings.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"Setting {name!r} of {config_path} names a folder, so it must begin with a "
                "letter or digit and hold only these and any of _ . , + = -"
            )
        for field in changes:
            if field in overrides:
                raise ValueError(f"--config.{field}: this is what the sweep varies ({name}).")
            if field == "seed":
                raise ValueError(f"Setting {name} of {config_path} sets the seed; --seeds does.")
    if "seed" in overrides:
        raise ValueError("--config.seed: the seeds of a sweep are set by --seeds=N, 0 to N - 1.")


def _wanted(settings: Mapping[str, typing.Any], only: str) -> list[str]:
    chosen = [name for name in only.split(",") if name]
    unknown = [name for name in chosen if name not in settings]
    if unknown:
        raise ValueError(
            f"--only: there is no setting {', '.join(unknown)}. Allowed are {', '.join(settings)}."
        )
    return [name for name in settings if not chosen or name in chosen]


def _parse_shard(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard must be I/N with 0 <= I < N, such as 0/4, got {shard!r}.")
    return int(match[1]), int(match[2])


def _share(runs: Sequence[SweepRun], part: int, parts: int) -> list[SweepRun]:
    """Returns the runs whose cost midpoint is in this part; a setting's seeds stay adjacent."""
    total, before, share = sum(run.cost for run in runs), 0, []
    for run in runs:
        if int(parts * (before + run.cost / 2) / total) == part:
            share.append(run)
        before += run.cost
    return share
