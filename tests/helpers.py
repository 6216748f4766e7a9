"""What several tests share: tiny configs and comparing runs."""

import fcntl
import json
import os
import pathlib
import shutil
import typing

import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from s2mlp_jax.config import load_config

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Small and quick, and yet with everything on: drop path, EMA, accumulation, smoothing.
TINY = {
    "model.depth": 2,
    "model.dim": 16,
    "model.drop_path": 0.2,
    "train.batch_size": 16,
    "train.accumulation_steps": 2,
    "train.ema_decay": 0.9,
    "train.steps": 12,
    "optimizer.warmup_epochs": 0.02,
    "optimizer.reference_batch_size": 16,
    "eval.batch_size": 128,
    "eval.every_epochs": 0.08,
    "checkpoint.every_epochs": 0.08,
    "log.every_steps": 3,
    "log.tensorboard": False,
    "data.num_threads": 1,
}


# Of `jax.jit`, for functions that run longer than XLA takes to optimise them; the tests' other
# programs are compiled without optimisation (conftest.py).
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def tiny_config(**overrides: typing.Any) -> ml_collections.ConfigDict:
    """The digits config, tiny; overrides write "__" for the dot."""
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(str(ROOT / "configs/s2mlp_digits.py"), {**TINY, **fields})


def tiny_flags(**overrides: typing.Any) -> list[str]:
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    return [f"--config.{name}={value}" for name, value in {**TINY, **fields}.items()]


def exit_code(main: typing.Callable[[list[str]], int], arguments: list[str]) -> int:
    """Returns the exit code of a command, also where the parser of its options exits."""
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)  # a text would be the message of an exit with code 1


def read_lines(workdir: pathlib.Path) -> list[dict]:
    """Returns the metrics of a run, less what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for clock in ("images_per_second", "data_wait", "data_wait_seconds", "mfu"):
            line.pop(f"train/{clock}", None)
    return lines


def read_state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a run's last checkpoint, and its step."""
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir.absolute() / "checkpoints" / str(step) / "state")
    flat: dict[str, np.ndarray] = {"(step)": np.asarray(step)}

    def collect(node: typing.Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                collect(value, f"{path}/{key}")
        elif isinstance(node, list | tuple):
            for i, value in enumerate(node):
                collect(value, f"{path}/{i}")
        elif node is not None:
            flat[path] = np.asarray(node)

    collect(tree, "")
    return flat


def assert_same_run(a: pathlib.Path, b: pathlib.Path) -> None:
    """Asserts that two runs are the same bit for bit."""
    assert read_lines(a) == read_lines(b)
    state_a, state_b = read_state(a), read_state(b)
    assert state_a.keys() == state_b.keys()
    assert any("params" in name for name in state_a)
    for name, value in state_a.items():
        np.testing.assert_array_equal(value, state_b[name], err_msg=name)


def made_once(name: str, make: typing.Callable[[pathlib.Path], object]) -> pathlib.Path:
    """Returns a folder that all workers of a session share; the first to need it fills it.

    Args:
      name: of the folder.
      make: fills the folder, which is there and empty.
    """
    folder = pathlib.Path(os.environ["TFDS_DATA_DIR"]).parent / name
    made = folder.with_name(f"{name}.made")
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
