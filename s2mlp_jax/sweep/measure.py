"""Measures speed and memory of a sweep's settings side by side, in training and inference."""

import dataclasses
import pathlib
import statistics
import time
import typing
from collections.abc import Callable

import jax

from s2mlp_jax.progress import say
from s2mlp_jax.saved.environment import environment
from s2mlp_jax.saved.files import Folder, read_json, write_json
from s2mlp_jax.sweep.settings import Sweep
from s2mlp_jax.train.devices import shard_batch
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.step import make_train_step
from s2mlp_jax.train.step_cost import compile_step, noise

_SECONDS = 0.5  # measuring time per figure and round


@dataclasses.dataclass
class _Candidate:
    """A compiled setting; its state is on the host while others are measured."""

    name: str
    run: Experiment
    state: typing.Any
    train_step: jax.stages.Wrapped
    memory: int
    train_seconds: list[float] = dataclasses.field(default_factory=list)
    eval_seconds: list[float] = dataclasses.field(default_factory=list)


def measure_sweep(sweep: Sweep, workdir: str | pathlib.Path, rounds: int = 5) -> pathlib.Path:
    """Measures the settings of a sweep on synthetic images, and writes `speed.json`.

    Every setting is measured once per round, because other load on the machine changes with time;
    each figure is the median over the rounds. Training is the whole step with its augmentation;
    inference is one evaluation batch. Memory is that of the training step on one device as XLA
    allocates it: weights, optimizer, batch, and everything that exists only within the step.

    Args:
      workdir: folder of the sweep; the report reads the file there. Settings in the file that are
        not measured now are kept, if commit, versions, devices and processor are the same.

    Returns:
      The path of the file.

    Raises:
      ValueError: if the folder is of another sweep.
    """
    workdir = pathlib.Path(workdir).absolute()
    sweep.write_description(workdir)
    candidates = []
    for run in {run.setting: run for run in sweep.runs}.values():
        experiment = sweep.experiment(run)
        compiled = compile_step(experiment)
        if compiled.memory is None:
            say(f"left out  {run.setting}: {compiled.refusal}")
            continue
        state, step = jax.device_get(experiment.draw_state()), make_train_step(experiment)
        memory = compiled.memory.total
        candidates.append(_Candidate(run.setting, experiment, state, step, memory))
        say(f"compiled  {run.setting}")
    for number in range(rounds):
        for candidate in candidates:
            _measure(candidate)
        say(f"measured  round {number + 1} of {rounds}")
    settings = {}
    for candidate in candidates:
        options = candidate.run.options
        train, infer = (
            size / statistics.median(seconds)
            for size, seconds in (
                (options.train.batch_size, candidate.train_seconds),
                (candidate.run.eval_batch_size, candidate.eval_seconds),
            )
        )
        settings[candidate.name] = {
            "train_images_per_second": train,
            "eval_images_per_second": infer,
            "memory_bytes": candidate.memory,
        }
        say(
            f"{candidate.name:<20}{train:>10,.0f} images/s in training{infer:>10,.0f} in inference"
            f"{candidate.memory / 2**20:>10,.1f} MiB"
        )
    now, path = environment(), Folder(workdir).speed_file
    if path.exists():
        before = read_json(path)
        alike = ("git_commit", "versions", "devices", "processor")
        if all(before["environment"][key] == now[key] for key in alike):
            settings = before["settings"] | settings
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, {"environment": now, "rounds": rounds, "settings": settings})
    return path


def _measure(candidate: _Candidate) -> None:
    run = candidate.run
    like = run.abstract_state()
    state = jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), candidate.state, like)
    train_batch = shard_batch(run.layout, noise(run, run.options.train.batch_size))
    eval_batch = shard_batch(run.layout, noise(run, run.eval_batch_size, mask=True))
    candidate.eval_seconds.append(_seconds(lambda: run.eval_step(state.variables, eval_batch)))

    def take_step() -> typing.Any:
        nonlocal state
        state, metrics = candidate.train_step(state, train_batch, run.key)
        return metrics

    candidate.train_seconds.append(_seconds(take_step))


def _seconds(function: Callable[[], typing.Any]) -> float:
    """Returns the median seconds per call, over half a second of calls and at least three."""
    jax.block_until_ready(function())
    taken: list[float] = []
    while sum(taken) < _SECONDS or len(taken) < 3:
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
