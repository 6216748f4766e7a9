"""Measures how long the devices are idle because the next batch is not ready."""

import queue
import threading
import time
import typing
from collections.abc import Callable

import jax

_Batch = typing.TypeVar("_Batch")


class DataWait:
    """Measures how long the devices wait for batches; use it in a `with` statement.

    The host runs ahead of the devices: when it waits for a batch, the devices may still be busy.
    They wait from the end of the last dispatched step, or from when the host asks for the batch
    if that is later, until the batch is ready. A thread records when that step ends, because
    nothing else can without blocking the loop. The thread needs Python's lock and may get it some
    milliseconds late, so the result is too small rather than too large.

    Attributes:
      seconds: total waiting time; never reset.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._given = 0  # number of dispatched steps
        self._ended = (0, 0.0)  # number of steps that ended, and time of the last end
        self._running: queue.SimpleQueue[jax.Array | None] = queue.SimpleQueue()

    def __enter__(self) -> "DataWait":
        # A daemon, so that it does not keep a process alive whose devices hang.
        self._thread = threading.Thread(target=self._note_ends, name="datawait", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.put(None)  # the thread ends after the last dispatched step
        self._thread.join(timeout=10)  # if it still ran at Python's end, it would abort the process

    def step_given(self, output: jax.Array) -> None:
        """Registers a dispatched step; `output` is any of its outputs."""
        self._given += 1
        self._running.put(output)

    def take(self, fetch: Callable[[], _Batch]) -> _Batch:
        """Returns the next batch from `fetch`, and adds the time that the devices waited for it."""
        asked = time.perf_counter()
        batch = fetch()
        there = time.perf_counter()
        steps, ended = self._ended
        if steps == self._given:
            self.seconds += there - max(asked, ended)
        return batch

    def _note_ends(self) -> None:
        while (output := self._running.get()) is not None:
            try:
                output.block_until_ready()
            except Exception:  # the loop gets the same error and can report it
                return
            self._ended = (self._ended[0] + 1, time.perf_counter())
