"""Records a profile of some steps of the training loop: what the devices and the host do."""

import pathlib
import re
import typing

import jax

from s2mlp_jax.progress import say


class Profile:
    """Profiles some steps; use it in a `with` statement around the training loop.

    With several processes, the first one is profiled.

    Args:
      steps: "FIRST:LAST", such as "100:105", both included; "" for none.
      folder: folder for the profiles, each in a sub-folder of its own.

    Raises:
      ValueError: if `steps` is something else.
    """

    def __init__(self, steps: str, folder: pathlib.Path) -> None:
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", steps)
        if steps and not (found and int(found[1]) <= int(found[2])):
            raise ValueError(
                f"--profile must be the first and the last step, such as 100:105, got {steps!r}."
            )
        self._steps = range(int(found[1]), int(found[2]) + 1) if found else range(0)
        self._folder = folder
        self._annotation: typing.Any = None  # of the current step, while a profile is recorded

    def check(self, done: int, total: int) -> None:
        """Raises a ValueError if the steps are not all among those left, done + 1 to total."""
        if self._steps and not done < self._steps[0] <= self._steps[-1] <= total:
            left = f"are steps {done + 1:,} to {total:,}" if done < total else "is nothing"
            raise ValueError(
                f"--profile={self._steps[0]}:{self._steps[-1]} is outside the run: "
                f"after {done:,} of {total:,} steps, there {left} left to train."
            )

    def __enter__(self) -> "Profile":
        if jax.process_index() != 0:
            self._steps = range(0)
        return self

    def most_steps(self, step: int, most: int) -> int:
        """Returns how many steps after `step` may be one program, up to `most`.

        The steps of the profile are one program each.
        """
        if self._steps and step < self._steps[-1]:
            return max(1, min(most, self._steps[0] - 1 - step))
        return most

    def reached(self, step: int, state: typing.Any) -> None:
        """Starts or ends the profile if it is time; call it before each program with the state.

        Args:
          step: the next step.
        """
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            if step > self._steps[-1]:
                self._stop(state)
                return
        elif step in self._steps:
            jax.block_until_ready(state)  # earlier steps are not in it
            jax.profiler.start_trace(self._folder)
        else:
            return
        self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        self._annotation.__enter__()

    def _stop(self, state: typing.Any) -> None:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self._annotation, self._steps = None, range(0)
        say(f"profile   written to {self._folder}")

    def __exit__(self, *_: object) -> None:
        if self._annotation is not None:  # the last step, or the run ends early
            self._annotation.__exit__(None, None, None)
            self._stop(None)
