"""Handles SIGTERM and Ctrl-C: finish the step, save, and exit."""

import signal
import threading
import types
import typing

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Remembers that the process was asked to stop; a second request stops it at once.

    A nested StopRequest passes a request on to the outer one, and starts with the request that
    the outer one has already received, if any.

    With several processes, jax's own service catches SIGTERM in any of them and makes all of
    them agree on the step, so that they save the same checkpoint.
    """

    def __init__(self) -> None:
        self._asked = False
        self._outer: typing.Any = None
        self._previous: dict[int, typing.Any] = {}

    def __enter__(self) -> "StopRequest":
        main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and main_thread:  # no other thread may set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
            self._outer = getattr(self._previous[signal.SIGTERM], "__self__", None)
            if isinstance(self._outer, StopRequest):
                self._asked = self._outer._asked
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def reached(self, step: int) -> bool:
        """Returns whether to stop after this step; the same in all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        self._asked = True
        self._restore()
        if isinstance(self._outer, StopRequest):
            self._outer._handle(number, frame)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
