"""Trains runs of the same shapes as one program, with parameters stacked along a leading axis.

The runs may differ in the seed and the shift pattern. A small model leaves an accelerator idle
between steps; many models at once use it better. On a CPU this is slower than training the runs
one by one (`results/vectorize.md`).
"""

import contextlib
import copy
import pathlib
import time
import typing
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.resident import Place
from s2mlp_jax.models.backbone import shift_variables
from s2mlp_jax.progress import Progress, say
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train import describe
from s2mlp_jax.train.data_wait import DataWait
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.loop import Stopped
from s2mlp_jax.train.recorder import RunRecorder
from s2mlp_jax.train.signals import StopRequest
from s2mlp_jax.train.state import TrainState
from s2mlp_jax.train.step import Batch, Metrics, make_step_function, make_train_step
from s2mlp_jax.train.step_metrics import NonFiniteLossError

_STEPS_TIMED = 10
_PLACE = Place(False, "on the host: the runs of one program are fed from there")


def shapes_key(config: ml_collections.ConfigDict) -> str:
    """Returns a key of all fields but seed and shift; runs with equal keys can be one program."""
    config = copy.deepcopy(config)
    with config.unlocked():
        config.seed, config.model.shift = 0, ""
    return config_lib.to_json(config)


def make_stacked_step(runs: Sequence[Experiment]) -> jax.stages.Wrapped:
    """Returns the jitted function (states, streams, keys) -> (states, metrics), all stacked.

    The runs share one device. `streams` holds one batch per distinct seed, in the order of
    the first run of each: runs with the same seed see the same images.
    """
    seeds = [run.options.seed for run in _one_of_each_seed(runs)]
    stream = np.array([seeds.index(run.options.seed) for run in runs])
    shifts = _stack([shift_variables(run.model.variant) for run in runs])

    def one(state: TrainState, batch: Batch, key: jax.Array, shift: typing.Any) -> typing.Any:
        return make_step_function(runs[0], constants={"shift": shift})(state, batch, key)

    def all_of_them(states: TrainState, streams: Batch, keys: jax.Array) -> typing.Any:
        batches = jax.tree.map(lambda x: x[stream], streams)
        return jax.vmap(one)(states, batches, keys, shifts)

    return jax.jit(all_of_them, donate_argnums=0)


def train_vectorized(
    runs: Sequence[Experiment], workdirs: Sequence[pathlib.Path]
) -> list[dict[str, float] | NonFiniteLossError]:
    """Trains runs with equal `shapes_key` to the end, each in its own folder.

    Folders are written and resumed as by `train`. A run's numbers equal those of a run trained
    alone up to the rounding of its dtype, not bit for bit.

    Args:
      runs: experiments with a layout of one device.
      workdirs: one folder per run.

    Returns:
      For each run, its last evaluation or its error; the other runs continue after an error.

    Raises:
      ValueError: if a workdir is of another run, or the runs were left at different steps.
      Stopped: if the process was asked to stop; all runs were saved.
    """
    with contextlib.ExitStack() as stack:
        recorders = []
        for run, workdir in zip(runs, workdirs, strict=True):
            folder = RunFolder(workdir)
            stack.enter_context(folder.locked())
            recorders.append(RunRecorder(run.placed(_PLACE), folder, len(runs)))
            stack.callback(recorders[-1].close)
        return _train(runs, recorders)


def _train(
    runs: Sequence[Experiment], recorders: Sequence[RunRecorder]
) -> list[dict[str, float] | NonFiniteLossError]:
    first, states = runs[0], [recorder.restore() for recorder in recorders]
    if any(recorder.run.place.on_device for recorder in recorders):
        raise ValueError("They began alone, with their images in device memory")
    start_step, total_steps = recorders[0].record["step"], first.total_steps
    for recorder in recorders:
        if recorder.record["step"] != start_step:
            raise ValueError(
                f"{recorders[0].folder.path} and {recorder.folder.path} were left at different "
                "steps, so they cannot go on together."
            )
    for line in describe.weights(first, start_step):
        say(line)
    for recorder in recorders:
        recorder.open_files()
    data = [run.train_batches(start_step) for run in _one_of_each_seed(runs)]

    def next_streams() -> Batch:
        batches = [next(stream) for stream in data]
        return jax.device_put(jax.tree.map(lambda *x: np.stack(x), *batches))

    keys = jnp.stack([run.key for run in runs])
    stacked, streams = _stack(states), next_streams()
    step_all = make_stacked_step(runs).lower(stacked, streams, keys).compile()
    failed: dict[int, NonFiniteLossError] = {}

    def for_each_left(act: Callable[[int, RunRecorder], None]) -> None:
        for i, recorder in enumerate(recorders):
            if i not in failed:
                try:
                    act(i, recorder)
                except NonFiniteLossError as error:
                    failed[i] = recorder.explain(error)

    def log(step: int, metrics: Metrics) -> None:
        # Fetched as a whole: slicing on the device would take one call per run and metric.
        values = jax.device_get(metrics)

        def log_one(i: int, recorder: RunRecorder) -> None:
            recorder.metrics.add(step, _slice(values, i))
            recorder.metrics.catch_up(step)

        for_each_left(log_one)

    progress, waiting = Progress(total_steps, start_step), DataWait()
    for recorder in recorders:
        recorder.start(progress, waited=lambda: waiting.seconds)
    before: Metrics | None = None
    with StopRequest() as stop, waiting:
        for step in range(start_step + 1, total_steps + 1):
            stacked, metrics = step_all(stacked, streams, keys)
            waiting.step_given(metrics["loss"])
            if before is not None:
                log(step - 1, before)  # one step late, while the device is busy with this one
            before = metrics
            progress.advance()
            stopping = stop.reached(step)
            if any(recorders[0].due(step, stopping)):
                log(step, before)
                before, now = None, stacked
                for_each_left(
                    lambda i, recorder: recorder.after_step(step, lambda: _slice(now, i), stopping)  # noqa: B023
                )
            if step == total_steps or len(failed) == len(runs):
                break
            if stopping:
                progress.close()
                raise Stopped(f"Stopped at step {step} of {total_steps}, which is saved.")
            streams = waiting.take(next_streams)
    progress.close()
    return [failed.get(i) or recorder.write_result() for i, recorder in enumerate(recorders)]


def speedup(runs: Sequence[Experiment]) -> float:
    """Measures how many times faster these runs train together than one by one."""
    timed = timed_steps(runs)
    for measure in timed.values():
        measure()  # compiles
    seconds = {name: min(measure() for _ in range(2)) for name, measure in timed.items()}
    return seconds["one by one"] / seconds["together"]


def timed_steps(runs: Sequence[Experiment]) -> dict[str, Callable[[], float]]:
    """Returns functions that measure the seconds per training step of all runs.

    "one by one" is the first run's time, times the number of runs. "together" is as one
    program. The data are on the device already.
    """
    first = runs[0]
    batch = jax.device_put(next(first.train_batches(0)))
    step = make_train_step(first)
    stacked_step, streams = make_stacked_step(runs), len(_one_of_each_seed(runs))
    states = {
        "one by one": first.draw_state(),
        "together": _stack([run.draw_state() for run in runs]),
    }
    batches = jax.tree.map(lambda x: jnp.stack([x] * streams), batch)
    keys = jnp.stack([run.key for run in runs])

    def measure(name: str, step: typing.Any, count: int, *inputs: typing.Any) -> float:
        started = time.perf_counter()
        for _ in range(_STEPS_TIMED):
            states[name], _ = step(states[name], *inputs)
        jax.block_until_ready(states[name])
        return count * (time.perf_counter() - started) / _STEPS_TIMED

    return {
        "one by one": lambda: measure("one by one", step, len(runs), batch, first.key),
        "together": lambda: measure("together", stacked_step, 1, batches, keys),
    }


def _one_of_each_seed(runs: Sequence[Experiment]) -> list[Experiment]:
    """Returns the first run of each seed, in order; the others share their batches."""
    first: dict[int, Experiment] = {}
    for run in runs:
        first.setdefault(run.options.seed, run)
    return list(first.values())


def _stack(trees: Sequence[typing.Any]) -> typing.Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _slice(tree: typing.Any, index: int) -> typing.Any:
    return jax.tree.map(lambda x: x[index], tree)
