"""For how long the devices had nothing to do because the next batch was not there."""

import queue
import threading
import time
import typing
from collections.abc import Callable

import jax

_Batch = typing.TypeVar("_Batch")


class DataWait:
    """Measures what the devices wait for batches; to be used in a `with` statement.

    The host runs ahead of the devices: that it waits for a batch does not mean that they do.
    They wait from the end of the last step that they were given, if the host is waiting by
    then, until the batch is there. A thread notes when that step ends, as nothing else can
    without holding up the loop. It needs Python's lock for that, and may get it some milliseconds
    late: what is measured is rather too little than too much.

    Attributes:
      seconds: waited in all; never put back.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._given = 0  # steps
        self._ended = (0, 0.0)  # how many steps have ended, and when the last of them did
        self._running: queue.SimpleQueue[jax.Array | None] = queue.SimpleQueue()

    def __enter__(self) -> "DataWait":
        # A daemon: it must not keep a process alive whose devices hang.
        threading.Thread(target=self._note_ends, name="datawait", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.put(None)  # the thread ends once the steps given have ended

    def step_given(self, output: jax.Array) -> None:
        """Is told of a step that the devices were given, by any output of it."""
        self._given += 1
        self._running.put(output)

    def take(self, fetch: Callable[[], _Batch]) -> _Batch:
        """Returns the next batch that `fetch` gives, and adds what the devices waited for it."""
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
            except Exception:  # the loop gets it too, where it can be reported
                return
            self._ended = (self._ended[0] + 1, time.perf_counter())
