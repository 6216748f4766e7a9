"""A training step of this copy of the repository against another copy, measured alternately."""

import pathlib
from collections.abc import Iterator

import numpy as np

from benchmarks import commits, common
from benchmarks.accelerator.schedule import Options, Record


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the ratios of time and memory.

    Args:
      name: "model,folder", where folder contains the other copy.
    """
    model, _, folder = name.partition(",")
    other = pathlib.Path(folder)
    # Both processes hold temporaries on the device at the same time.
    batch_size = max(1, options.batch_size // 2)
    how = (model, options.dtype, str(batch_size), str(options.depth))
    with (
        commits.worker(common.ROOT, *how) as (here, now),
        commits.worker(other, *how) as (there, before),
    ):
        count = 1 if options.on_cpu else 10
        figures = common.alternate(
            {"here": lambda: mean(now, count), "there": lambda: mean(before, count)},
            options.rounds,
            warmup=1,
        )
    yield {
        "name": f"{model} against {other.name}",
        "batch": batch_size,
        "time, here / there": float(np.median(np.divide(figures["here"], figures["there"]))),
        "memory, here / there": here / there,
        "here, ms": 1e3 * float(np.median(figures["here"])),
        "there, ms": 1e3 * float(np.median(figures["there"])),
        "here, GiB": here / 2**30,
        "there, GiB": there / 2**30,
    }


def mean(step: commits.Step, count: int) -> float:
    """Returns the mean seconds per step over `count` steps."""
    return sum(step() for _ in range(count)) / count
