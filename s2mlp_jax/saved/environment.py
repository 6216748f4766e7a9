"""Where, when and with which versions a run was started: `environment.json`."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import time
import typing
from collections.abc import Mapping

import jax

import s2mlp_jax
from s2mlp_jax.progress import say
from s2mlp_jax.saved.files import Folder, read_json, write_json

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


def write_environment(folder: Folder, start_step: int, **facts: typing.Any) -> None:
    """Writes the environment of this start of a run, and keeps those of earlier starts.

    Args:
      start_step: the step from which this start continues.
      facts: further JSON values about this start.
    """
    earlier: list[typing.Any] = []
    if folder.environment_file.exists():
        try:
            before = read_json(folder.environment_file)
            before["start_step"]  # every start has one
            earlier = [*before.pop("earlier", []), before]
        except (ValueError, TypeError, KeyError):
            say(f"{folder.environment_file} cannot be read. It is written anew.")
    now = {"start_step": start_step, **environment(), **facts, "earlier": earlier}
    write_json(folder.environment_file, now)


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
    """Lists the packages whose version differs from `then`: "jax 0.10.2 -> 0.12.0, ..."."""
    if not then:
        return ""
    now, then = versions(), {"s2mlp_jax": "0.1.0", **then}  # 0.1.0 did not record its version
    there = [(name, version, now.get(name, "not recorded")) for name, version in then.items()]
    changed = [f"{name} {old} -> {new}" for name, old, new in there if old != new]
    return ", ".join(changed)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _program() -> list[str]:
    """Returns the program as typed: "main.py", or "-m" and the name of a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("s2mlp_jax"):
        return [pathlib.Path(sys.argv[0]).name]
    return ["-m", spec.name.removesuffix(".__main__")]


def _processor() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
