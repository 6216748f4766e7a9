"""Handles SIGTERM, SIGHUP and Ctrl-C (SIGINT): finish the step, save, and exit."""

import os
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
    them agree on the step, so that they save the same checkpoint. The other signals are turned
    into SIGTERM there.

    Attributes:
      asked: whether this process was asked to stop; with several processes always False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._outer: typing.Any = None
        self._previous: dict[int, typing.Any] = {}

    def __enter__(self) -> "StopRequest":
        main_thread = threading.current_thread() is threading.main_thread()
        if not main_thread:  # no other thread may set handlers
            return self
        alone = jax.process_count() == 1
        for number in (*((signal.SIGTERM,) if alone else ()), signal.SIGHUP, signal.SIGINT):
            # nohup ignores SIGHUP.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                handler = self._handle if alone else self._forward
                self._previous[number] = signal.signal(number, handler)
        self._outer = getattr(self._previous[signal.SIGINT], "__self__", None)
        if isinstance(self._outer, StopRequest):
            self.asked = self._outer.asked
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def reached(self, step: int) -> bool:
        """Returns whether to stop after this step; the same in all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked

    def _forward(self, number: int, frame: types.FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        self._restore()

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        self.asked = True
        self._restore()
        if isinstance(self._outer, StopRequest):
            self._outer._handle(number, frame)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
