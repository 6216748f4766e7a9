"""A run's folder: its config, and where, when and with what it was run."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import typing
import uuid
from collections.abc import Mapping

import jax
import ml_collections

import s2mlp_jax
from s2mlp_jax.config import differences, to_json

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "clu",
    "ml_collections",
    "numpy",
    "pillow",
)


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Checks that a folder is new or belongs to a run of this config.

    Raises:
      ValueError: if it belongs to another, with the fields that differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        if (workdir / "checkpoints").exists():
            raise ValueError(f"{workdir} has checkpoints but no config.json; take another workdir.")
        return
    different = differences(_read_config(path), config)
    if different:
        listed = "\n  ".join(different)
        raise ValueError(
            f"{workdir} belongs to a run of another config:\n  {listed}\n"
            "Take another --workdir, or the same config to go on with that run."
        )


def check_data(workdir: pathlib.Path, data: Mapping[str, typing.Any]) -> None:
    """Checks that the data are those that a run began with.

    Args:
      data: as `Experiment.describe_data` returns them.

    Raises:
      ValueError: if they are others, with what differs.
    """
    path = workdir / "data.json"
    if not path.exists():
        return
    noted = json.loads(path.read_text())
    different = [
        f"{part}: {noted.get(part)} there, {data[part]} here"
        for part in data
        if noted.get(part) != data[part]
    ]
    if different:
        listed = "\n  ".join(different)
        raise ValueError(
            f"{workdir} belongs to a run on other data:\n  {listed}\n"
            "Put them back as they were, or take another --workdir."
        )


def read_data(workdir: pathlib.Path) -> dict[str, typing.Any]:
    """Returns what a run noted of its data, as `Experiment.describe_data` returns it.

    Raises:
      ValueError: if it is not there, or no such note.
    """
    path = workdir / "data.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}, what the run noted of its data, cannot be read: {error}. Where the data "
            "are, `python main.py` with the run's own config writes it again."
        ) from error


def write_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder and writes `config.json`, the completed config."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "config.json", to_json(config))


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the config of a run.

    Raises:
      ValueError: if the folder holds none, or is an exported model.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(f"{workdir} is no workdir of a run: it has no config.json.")
    saved = _read_config(path)

    def tuples(value: typing.Any) -> typing.Any:
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ml_collections.ConfigDict(tuples(saved))


def _read_config(path: pathlib.Path) -> dict[str, typing.Any]:
    """Reads the config of a run; a ValueError if it is that of an exported model."""
    saved = json.loads(path.read_text())
    if "training" in saved:
        raise ValueError(
            f"{path.parent} is an exported model, and no run. It is for s2mlp_jax.predict, "
            "s2mlp_jax.probe, s2mlp_jax.load and --config.init_from."
        )
    return saved


def environment() -> dict[str, typing.Any]:
    """Describes this process: command, commit, versions, devices."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [*_program(), *sys.argv[1:]],
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "processor_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "versions": versions(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def write_environment(workdir: pathlib.Path, start_step: int) -> None:
    """Writes `environment.json`: this start's environment, and those of the starts before it.

    Args:
      start_step: the step that this start goes on from.
    """
    path = workdir / "environment.json"
    earlier: list[typing.Any] = []
    if path.exists():
        before = json.loads(path.read_text())
        earlier = [*before.pop("earlier", []), before]
    now = {"start_step": start_step, **environment(), "earlier": earlier}
    write_json(path, now)


def write_json(path: pathlib.Path, content: typing.Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def git_commit() -> str:
    """Returns the commit of this source tree, with "+changes" if files differ from it."""
    here = pathlib.Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Returns the versions of the packages that a run's numbers depend on."""
    return {"s2mlp_jax": s2mlp_jax.__version__} | {name: _version(name) for name in _PACKAGES}


def changed_versions(then: Mapping[str, str]) -> str:
    """Lists the packages whose version is not that of a record, "jax 0.10.2 -> 0.12.0, ..."."""
    if not then:
        return ""
    now, then = versions(), {"s2mlp_jax": "0.1.0", **then}  # which the first version did not note
    changed = [f"{name} {then[name]} -> {now[name]}" for name in then if then[name] != now[name]]
    return ", ".join(changed)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _program() -> list[str]:
    """The program as one types it: "main.py", or "-m" and a module's name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("s2mlp_jax"):
        return [pathlib.Path(sys.argv[0]).name]
    return ["-m", spec.name.removesuffix(".__main__")]


def _processor() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    # A name of its own: the shards of a sweep write the same file, and not always on one machine.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
