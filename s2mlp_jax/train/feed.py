"""Feeds: what takes the training steps, from batches of the host or a set on the devices."""

import time
import typing

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.data.resident import StepRecords
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.data_wait import DataWait
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.state import TrainState
from s2mlp_jax.train.step import (
    MOST_STEPS,
    Batch,
    Metrics,
    make_many_steps,
    make_train_step,
)

# A stop is obeyed after the stretch that runs and the one that is dispatched.
_SECONDS_PER_STRETCH = 0.5


def make_program(run: Experiment) -> jax.stages.Wrapped:
    """Returns the jitted function that the feed of a run calls: one step, or many."""
    return make_many_steps(run) if run.place.on_device else make_train_step(run)


def abstract_arguments(run: Experiment) -> tuple[typing.Any, ...]:
    """Returns the shapes, dtypes and shardings of the arguments of `make_program`'s function."""
    state, batch, key = run.abstract_step_arguments()
    if not run.place.on_device:
        return state, batch, key
    length, layout = len(run.train_split), run.layout
    whole = {
        name: jax.ShapeDtypeStruct((length, *x.shape[1:]), x.dtype, sharding=layout.replicated)
        for name, x in batch.items()
    }
    shape = (MOST_STEPS, run.options.train.batch_size)
    records = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=layout.stacked_batch)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=layout.replicated)
    return state, whole, records, count, key


class Feed(typing.Protocol):
    """Takes training steps, one stretch of steps after another; use it in a `with` statement."""

    def compile(self, state: TrainState) -> None:
        """Compiles the program, and makes the data of the first steps ready."""

    def __enter__(self) -> "Feed": ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def most(self) -> int:
        """The largest number of steps that `take` accepts now."""

    @property
    def waited(self) -> float:
        """Total seconds that the devices have waited for data."""

    def take(self, state: TrainState, count: int) -> tuple[TrainState, Metrics]:
        """Dispatches `count` steps on the data that are ready.

        Returns:
          The new state, and the metrics, as `StepMetrics.add` takes them.
        """

    def prepare(self, step: int) -> None:
        """Makes the data of the steps after `step` ready.

        Raises:
          BrokenImageError: a broken image, with its record.
        """


class HostFeed(Feed):
    """One step at a time; the host makes batches while the devices train."""

    def __init__(self, run: Experiment, program: jax.stages.Wrapped, start_step: int) -> None:
        self._run, self._program = run, program
        self._data = run.train_batches(start_step)
        self._waiting = DataWait()

    def _next(self) -> Batch:
        return devices_lib.shard_batch(self._run.layout, next(self._data))

    def compile(self, state: TrainState) -> None:
        """Makes the first batch, and compiles the step for it."""
        self._batch = self._next()
        self._step = self._program.lower(state, self._batch, self._run.key).compile()

    def __enter__(self) -> "HostFeed":
        self._waiting.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.__exit__()

    @property
    def most(self) -> int:
        """One step, as there is one batch."""
        return 1

    @property
    def waited(self) -> float:
        """See `DataWait`."""
        return self._waiting.seconds

    def take(self, state: TrainState, count: int) -> tuple[TrainState, Metrics]:
        """Dispatches one step."""
        assert count == 1
        state, metrics = self._step(state, self._batch, self._run.key)
        self._waiting.step_given(metrics["loss"])
        return state, metrics

    def prepare(self, step: int) -> None:
        """Takes the next batch, which is that of the next step."""
        self._batch = self._waiting.take(self._next)


class DeviceFeed(Feed):
    """Many steps as one program, on a set in the devices' memory.

    The host is one stretch ahead of the devices, so that they do not wait for it.
    """

    def __init__(self, run: Experiment, program: jax.stages.Wrapped, start_step: int) -> None:
        options = run.options
        self._run, self._program, self._start_step = run, program, start_step
        self._records_of = StepRecords(
            len(run.train_split), options.seed, options.train.batch_size, options.data.repeats
        )
        self._seconds_per_step = _SECONDS_PER_STRETCH
        self._before: tuple[int, float, jax.Array] | None = None
        self._ready = 0.0

    def compile(self, state: TrainState) -> None:
        """Loads the images, and compiles the program."""
        self._whole = self._run.device_data.training
        self.prepare(self._start_step)
        arguments = state, self._whole, self._records, self._put(np.int32(1)), self._run.key
        self._many = self._program.lower(*arguments).compile()

    def __enter__(self) -> "DeviceFeed":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def most(self) -> int:
        """As many steps as take half a second."""
        return max(1, min(MOST_STEPS, int(_SECONDS_PER_STRETCH / self._seconds_per_step)))

    @property
    def waited(self) -> float:
        """Zero, as nothing is fed."""
        return 0.0

    def take(self, state: TrainState, count: int) -> tuple[TrainState, Metrics]:
        """Dispatches a stretch, and waits for the end of the one before."""
        now, before = time.perf_counter(), self._before
        arguments = state, self._whole, self._records, self._put(np.int32(count)), self._run.key
        state, metrics = self._many(*arguments)
        self._before = (count, now, metrics["loss"])
        if before is not None:
            steps, dispatched, loss = before
            loss.block_until_ready()
            began, self._ready = max(dispatched, self._ready), time.perf_counter()
            # This includes an evaluation in between, so that it must not rise at once.
            measured = (self._ready - began) / steps
            self._seconds_per_step = min(measured, 2 * self._seconds_per_step)
        return state, metrics

    def prepare(self, step: int) -> None:
        """Computes which records the next steps use."""
        records = self._records_of(step, MOST_STEPS)
        self._records = jax.device_put(records, self._run.layout.stacked_batch)

    def _put(self, number: np.int32) -> jax.Array:
        return jax.device_put(number, self._run.layout.replicated)


def make_feed(run: Experiment, program: jax.stages.Wrapped, start_step: int) -> Feed:
    """Returns the feed of a run; `program` is from `make_program`."""
    return (DeviceFeed if run.place.on_device else HostFeed)(run, program, start_step)
