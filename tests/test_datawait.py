"""What the devices wait for data, told by a clock that the test moves."""

import pathlib
import threading
import types
import typing
from collections.abc import Callable, Iterator

import jax
import pytest

from s2mlp_jax.saved.metrics import read_metrics
from s2mlp_jax.train import data_wait, describe, feed, loop
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.data_wait import DataWait
from s2mlp_jax.train.step_metrics import StepMetrics
from tests.helpers import tiny_config


class Step:
    """A device's output that is there when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self._done, self._error = threading.Event(), error

    def block_until_ready(self) -> None:
        self._done.wait(60)
        if self._error:
            raise self._error

    def end(self) -> None:
        self._done.set()


class Clock:
    """A clock at which the noting of a step's end can be waited for."""

    def __init__(self) -> None:
        self.now, self._noted = 0.0, threading.Semaphore(0)

    def perf_counter(self) -> float:
        if threading.current_thread().name == "datawait":
            self._noted.release()
        return self.now

    def end(self, step: Step, waiting: DataWait) -> None:
        """Ends a step now, and returns when that was noted."""
        ended = waiting._ended
        step.end()
        assert self._noted.acquire(timeout=60)
        while waiting._ended == ended:  # the clock was read; what was read is kept next
            pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(data_wait, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


@pytest.fixture
def waiting() -> Iterator[DataWait]:
    with DataWait() as waiting:
        yield waiting


def test_devices_wait_from_the_end_of_their_last_step(clock: Clock, waiting: DataWait) -> None:
    first, second = Step(), Step()

    def arrives_at(now: float, meanwhile: Callable[[], None] = lambda: None) -> Callable[[], str]:
        def fetch() -> str:
            meanwhile()
            clock.now = now
            return "batch"

        return fetch

    # The host waits from 0 to 5, the devices work: no wait of theirs.
    waiting.step_given(first)
    assert waiting.take(arrives_at(5.0)) == "batch"
    assert waiting.seconds == 0.0

    # Of two steps given the first ends: the devices still have the other one.
    waiting.step_given(second)
    clock.end(first, waiting)
    waiting.take(arrives_at(6.0))
    assert waiting.seconds == 0.0

    # The last step ends at 7, while the host waits from 6 to 10: they wait for 3 seconds.
    def end_at_7() -> None:
        clock.now = 7.0
        clock.end(second, waiting)

    waiting.take(arrives_at(10.0, end_at_7))
    assert waiting.seconds == 3.0

    # Idle for another reason until 20 (an evaluation, say): only what the host waits counts.
    clock.now = 20.0
    waiting.take(arrives_at(20.5))
    assert waiting.seconds == 3.5


def test_a_step_that_fails_ends_the_thread_and_nothing_else(waiting: DataWait) -> None:
    failing = Step(RuntimeError("out of memory"))
    waiting.step_given(failing)
    failing.end()
    assert waiting.take(lambda: "batch") == "batch"


def test_the_log_says_how_long_and_which_part() -> None:
    lines, waited = [], [0.0]
    log = StepMetrics(
        lambda step, averages: lines.append(averages),
        is_due=lambda step: True,
        images_per_step=2,
        start_step=0,
        unwritten={},
        waited=lambda: waited[0],
    )
    for step, seconds in ((1, 1e-6), (2, 1e-5)):
        waited[0] += seconds
        log.add(step, {"loss": jax.numpy.ones(()), "grad_norm": jax.numpy.ones(())})
        log.catch_up(step)
        line = lines[-1]
        assert line["data_wait_seconds"] == pytest.approx(seconds)
        lap = 2 / line["images_per_second"]
        assert line["data_wait"] == pytest.approx(seconds / lap)
    assert log.waited == pytest.approx(1.1e-5)


def test_a_person_is_told_of_waits_that_matter() -> None:
    figures = {"epoch": 1.0, "loss": 2.0, "images_per_second": 100.0}
    told = describe.train_figures({**figures, "data_wait": 0.25, "data_wait_seconds": 3.0})
    assert told.endswith("100 images/s  waited 3.0 s for data (25% of the time)")
    untold = describe.train_figures({**figures, "data_wait": 0.005, "data_wait_seconds": 0.1})
    assert untold.endswith("100 images/s")
    slow = {**figures, "images_per_second": 0.237, "data_wait": 0.0, "data_wait_seconds": 0.0}
    assert describe.train_figures(slow).endswith("0.24 images/s")


def test_a_run_logs_its_waits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With batches that come only after the step before has ended, some of the time is waiting."""
    made: list[DataWait] = []

    class Kept(DataWait):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    place = devices_lib.shard_batch

    def place_late(*arguments: typing.Any) -> dict[str, jax.Array]:
        while made and made[0]._ended[0] < made[0]._given:
            pass
        return place(*arguments)

    monkeypatch.setattr(feed, "DataWait", Kept)
    monkeypatch.setattr(devices_lib, "shard_batch", place_late)
    loop.train_and_evaluate(tiny_config(train__accumulation_steps=1), tmp_path)
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in line]
    assert len(lines) == 4
    assert all(0 < line["train/data_wait"] < 1 for line in lines)
    assert made[0]._given == 12  # it was told of every step
    waits = [line["train/data_wait_seconds"] for line in lines]
    assert made[0].seconds == pytest.approx(sum(waits))
