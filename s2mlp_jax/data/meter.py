"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
import types

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


def duration(seconds: float) -> str:
    """Formats a time as a person would say it: 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def gigabytes(size: float) -> str:
    """Formats a number of bytes, in units of 10^9 or, of small ones, 10^6."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


class Meter:
    """Shows how much of a total is done, and when the rest will be.

    Args:
      what: is being done.
      total: in `unit`s.
      unit: "images", or "B" for bytes.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total = what, total
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(
            desc=what,
            total=total,
            unit=unit,
            unit_scale=True,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            leave=False,
        )

    def show(self, done: int) -> None:
        """Says that so much is done by now."""
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


def say(message: str) -> None:
    """Prints a line at once."""
    print(message, flush=True)
