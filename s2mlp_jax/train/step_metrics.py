"""The metrics of training steps: fetched late, averaged, timed, checked for NaN."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from s2mlp_jax.cli import ExitCode

# Steps (or stretches of steps) that the host may run ahead of the device: each step holds a batch
# in the device's memory.
IN_FLIGHT = 4


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient became NaN or infinite."""

    exit_code = ExitCode.WRONG_NUMBERS


class StepMetrics:
    """Turns the metrics of every step into one line of averages every few steps.

    Attributes:
      unwritten: metric -> its values since the last line, one per step. A checkpoint stores
        them, so that a resumed run averages over the same steps as an uninterrupted one.
      corrupt_images: number of broken images that were replaced in the whole run.
      seconds: training time from the start of the clock to the last line.
      waited: part of these seconds in which the devices waited for data.
    """

    def __init__(
        self,
        write: Callable[[int, dict[str, float]], None],
        is_due: Callable[[int], bool],
        images_per_step: int,
        start_step: int,
        unwritten: dict[str, list[float]],
        corrupt_images: int = 0,
        waited: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Starts the clock.

        Args:
          write: called with a step and the averages up to it, with `images_per_second` and, since
            the last line, `data_wait_seconds` and its fraction of the time, `data_wait`.
          is_due: returns whether to write after a step.
          unwritten: from the checkpoint that the run resumes from.
          corrupt_images: from the checkpoint that the run resumes from.
          waited: returns the total seconds that the devices have waited for data.
        """
        self.unwritten, self.corrupt_images = unwritten, corrupt_images
        self.seconds = self.waited = 0.0
        self._clock_of_waits = waited
        self._write, self._is_due, self._images_per_step = write, is_due, images_per_step
        self._pending: collections.deque[tuple[int, int, dict[str, jax.Array]]]
        self._pending = collections.deque()
        self._written = start_step
        self._lap_start = time.perf_counter()

    def add(self, step: int, metrics: dict[str, jax.Array], count: int = 1) -> None:
        """Adds the metrics of `count` steps up to this one, which may not be computed yet.

        Args:
          metrics: on the device: scalars, or arrays of which the first `count` entries are used.
        """
        self._pending.append((step, count, metrics))

    def catch_up(self, step: int) -> None:
        """Writes the line of a step if due; waits for the device then, or if it is far behind.

        Raises:
          NonFiniteLossError: as `fetch` does.
        """
        due = step > self._written and self._is_due(step)
        if due or len(self._pending) > IN_FLIGHT:
            self.fetch(step)
        if due:
            now = time.perf_counter()  # the next step runs while this one's line is written
            seconds, self._lap_start = now - self._lap_start, now
            self.seconds += seconds
            waited = self._clock_of_waits() - self.waited
            self.waited += waited
            averages = {name: float(np.mean(values)) for name, values in self.unwritten.items()}
            clock = {
                "images_per_second": (step - self._written) * self._images_per_step / seconds,
                "data_wait": waited / seconds,
                "data_wait_seconds": waited,
            }
            self._write(step, {**averages, **clock})
            self.unwritten = {}
            self._written = step

    def fetch(self, step: int) -> None:
        """Waits for the metrics of all steps up to this one.

        Raises:
          NonFiniteLossError: at the first step whose loss or gradient is NaN or infinite.
        """
        while self._pending and self._pending[0][0] <= step:
            last, count, metrics = self._pending.popleft()
            fetched = jax.device_get(metrics)
            values = {name: np.atleast_1d(x)[:count].tolist() for name, x in fetched.items()}
            for i in range(count):
                for name, of_steps in values.items():
                    self.unwritten.setdefault(name, []).append(of_steps[i])
                for name in ("loss", "grad_norm"):  # a bad gradient is a bad loss one step later
                    value = values[name][i]
                    if not math.isfinite(value):
                        at = last - count + 1 + i
                        raise NonFiniteLossError(f"train/{name} is {value} at step {at}")
            self.corrupt_images += round(sum(values.get("corrupt_images", [])))

    @contextlib.contextmanager
    def paused(self, step: int) -> Iterator[None]:
        """Stops the clock after a step, during work that is not training."""
        self.fetch(step)
        self.catch_up(step)
        paused_at = time.perf_counter()
        yield
        self._lap_start += time.perf_counter() - paused_at
