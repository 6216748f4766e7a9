"""Timing for devices that compute asynchronously."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from benchmarks import common


def per_call(call: Callable[[], Any], seconds: float) -> Callable[[], float]:
    """Returns a measurement of the mean seconds per call.

    The host runs ahead of the device, as in training; it waits only for the last result.

    Args:
      call: starts work on the device and returns its result; the first call compiles it.
      seconds: approximate duration of one measurement, which sets the number of calls.
    """
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, round(seconds / (time.perf_counter() - start)))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / count

    return measure


def by_turns(
    calls: Mapping[str, Callable[[], Any]], seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Measures calls alternately; returns the seconds per call in each round."""
    measurements = {name: per_call(call, seconds) for name, call in calls.items()}
    return common.alternate(measurements, rounds, warmup=0)


def batches(batch_size: int) -> Iterator[int]:
    """Yields a batch size, then half of it, and so on, until the caller stops."""
    while batch_size:
        yield batch_size
        batch_size //= 2


def out_of_memory(error: Exception) -> bool:
    """Returns whether an error is an out-of-memory error of XLA or PyTorch."""
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in ("RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory"))


def peak_gib() -> float | None:
    """Returns this process's peak device memory in GiB; None if unknown."""
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**30
