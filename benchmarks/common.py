"""What the benchmarks share: measuring candidates by turns, ratios, and the Markdown report."""

import argparse
import ctypes
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from s2mlp_jax.saved.environment import environment

ROOT = pathlib.Path(__file__).resolve().parent.parent
# CPU cores that this process may use.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Returns a parser with the flags of every benchmark, --rounds and --output."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    result.add_argument("--output", metavar="FILE.md", help="also write the report there")
    return result


def config_file(name: str) -> str:
    """Returns the path of `configs/<name>.py`."""
    return str(ROOT / "configs" / f"{name}.py")


def keep_memory() -> str:
    """Makes malloc keep what is freed; to be called before the first array. Returns a note.

    By default glibc hands large buffers back, or not, as it happens. A program of one small
    operation then spends more time on the page faults of new memory than on the operation, and
    not the same time twice. In a training step hundreds of operations share the memory of one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    # One arena, no trimming, no mmap below 1 GiB: M_ARENA_MAX, M_TRIM_, M_MMAP_THRESHOLD.
    settings = ((-8, 1), (-1, 2**31 - 1), (-3, 2**30))
    if mallopt is not None and all(mallopt(name, value) for name, value in settings):
        return "malloc keeps freed memory, so no time is spent on page faults."
    return "malloc is as it is: on a CPU the page faults of new memory are part of the times."


def seconds(function: Callable[..., Any], *args: Any) -> Callable[[], float]:
    """Returns a measurement: one call of a jitted function until its result is there."""

    def measure() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        return time.perf_counter() - start

    return measure


def alternate(
    measurements: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Takes every measurement once a round, so that all of them see the same machine.

    What else runs on a machine changes over seconds; candidates measured one after the other
    would each get another share of it. Who goes first changes from round to round, as a
    candidate's caches are those that the one before it left.

    Returns:
      name -> its figures, one a round. Those of the `warmup` rounds are left out.
    """
    figures: dict[str, list[float]] = {name: [] for name in measurements}
    rng = np.random.default_rng(0)
    for i in range(warmup + rounds):
        for name in rng.permutation(np.array(list(measurements), object)):
            figure = measurements[name]()
            if i >= warmup:
                figures[name].append(figure)
    return figures


def ratio(figures: Sequence[float], reference: Sequence[float]) -> str:
    """Formats the median over the rounds of a candidate's figure over the reference's."""
    return f"{np.median(np.divide(figures, reference)):.2f}"


def median(figures: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """Formats the median and, in brackets, the inter-quartile range."""
    low, middle, high = np.percentile(np.asarray(figures) * scale, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def milliseconds(figures: Sequence[float]) -> str:
    """Formats the median of seconds as milliseconds."""
    return median(figures, digits=2, scale=1e3)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, the first column to the left and the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(columns), line(rule), *map(line, rows)])


def header(title: str) -> str:
    """Returns the title, and with what, on what and when the numbers were taken."""
    now = environment()
    command = shlex.join(
        ["python", "-m", f"benchmarks.{pathlib.Path(sys.argv[0]).stem}", *sys.argv[1:]]
    )
    # Of a busy machine the ratios are still of use, the milliseconds are not.
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    installed = (f"{k} {v}" for k, v in now["versions"].items() if v != "not installed")
    lines = [
        f"Command: `{command}`",
        f"Commit: {now['git_commit']}, {now['time']}",
        f"Versions: Python {now['python']}, {', '.join(installed)}",
        f"Hardware: {now['processor']}, {now['processor_cores']} cores{load}; "
        f"devices {', '.join(now['devices'])}",
        f"XLA_FLAGS: {now['XLA_FLAGS'] or '(none)'}",
    ]
    return "\n".join([f"# {title}", "", *(f"- {line}" for line in lines)])


def publish(parts: Sequence[str], output: str | None) -> None:
    """Prints the parts of a report, and writes them to a file if one is named."""
    text = "\n\n".join(parts) + "\n"
    print(text)
    if output:
        path = pathlib.Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
