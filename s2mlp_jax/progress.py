"""Output for people: lines, progress bars on a terminal, durations and sizes as text.

jax is not imported here, so that preparing data sets and making reports do not need it.
"""

import sys
import time
import types

from tqdm import tqdm

from s2mlp_jax.escape import printable

_SECONDS_BETWEEN_LINES = 30.0


def say(message: str, every_process: bool = False) -> None:
    """Prints a line, above the progress bar if there is one.

    Args:
      every_process: prints in every process of a run, not only in the first; for what a process
        finds in its own part of the data.
    """
    if every_process or _is_first_process():
        tqdm.write(printable(message, lines=True), file=sys.stdout)
        sys.stdout.flush()


def _is_first_process() -> bool:
    jax = sys.modules.get("jax")  # without jax there is one process
    return jax is None or jax.process_index() == 0


def duration(seconds: float) -> str:
    """Formats a duration to three digits: 25 ms, 45 s, 12.5 min, 3.5 h, 4.2 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms" if 0 < seconds < 1 else f"{seconds:.3g} s"


def plural(count: int, noun: str) -> str:
    """Returns a number and its noun, "1 file" or "1,200 files"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def human_size(count: float) -> str:
    """Formats a number of bytes to three digits: 512 B, 4.5 KiB, 12.5 MiB, 138 GiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1000 and len(units) > 1:
        count, units = count / 1024, units[1:]
    return f"{count:.3g} {units[0]}"


class Progress:
    """Progress over the steps of a run: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, start: int) -> None:
        terminal = sys.stderr.isatty() and _is_first_process()
        self._bar = tqdm(
            total=total, initial=start, unit="step", disable=not terminal, dynamic_ncols=True
        )

    def advance(self, steps: int = 1) -> None:
        """Counts steps."""
        self._bar.update(steps)

    def note(self, step: int, figures: str) -> None:
        """Shows temporary figures next to the bar, or as a line if there is no bar."""
        if self._bar.disable:
            self.tell(step, figures)
        else:
            self._bar.set_postfix_str(figures, refresh=False)

    def tell(self, step: int, figures: str) -> None:
        """Prints figures as a line that stays."""
        say(f"step {step}/{self._bar.total}  {figures}")

    def close(self) -> None:
        """Closes the bar and leaves it on the screen."""
        self._bar.close()


class Meter:
    """Shows how much of a long piece of work is done: a bar on a terminal, lines elsewhere.

    Args:
      what: name of the work.
      total: amount of work, in `unit`s.
      unit: "images", or "B" for bytes.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total = what, total
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(
            desc=printable(what),
            total=total,
            unit=unit,
            unit_scale=True,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            leave=False,
        )

    def show(self, done: int) -> None:
        """Shows that `done` units are complete."""
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.update(done - self._bar.n)
        elif done and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._start) * (self._total - done) / done
            say(f"{self._what}: {done / self._total:.0%}, about {duration(max(left, 0))} left")

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._bar.close()
        if error is None:
            say(f"{self._what}: done in {duration(time.monotonic() - self._start)}")
