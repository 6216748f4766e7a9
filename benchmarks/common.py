"""Code shared by the benchmarks: alternating measurements, ratios, and the Markdown report."""

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
    """Returns a parser with the flags that all benchmarks share, --rounds and --output."""
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
    """Makes malloc keep freed memory, and returns a note for the report.

    Call it before the first array. By default, glibc may or may not return a large buffer to the
    system. A program with one small operation then spends more time on page faults of new memory
    than on the operation, and this time varies. In a training step, hundreds of operations reuse
    the same memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    # M_ARENA_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: one arena, no trim, no mmap below 1 GiB.
    settings = ((-8, 1), (-1, 2**31 - 1), (-3, 2**30))
    if mallopt is not None and all(mallopt(name, value) for name, value in settings):
        return "malloc keeps freed memory, so no time is spent on page faults."
    return "malloc is as it is: on a CPU the page faults of new memory are part of the times."


def seconds(function: Callable[..., Any], *args: Any) -> Callable[[], float]:
    """Returns a measurement: seconds per call of a jitted function until its result is ready."""

    def measure() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        return time.perf_counter() - start

    return measure


def alternate(
    measurements: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Takes every measurement once per round, so that all of them see the same load.

    The load of a machine changes within seconds; candidates measured one after the other would
    see different loads. The order changes from round to round, because a candidate starts with
    the caches that the previous one left.

    Returns:
      name -> its figures, one per round, without the `warmup` rounds.
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
    """Formats the median over the rounds of figure / reference."""
    return f"{np.median(np.divide(figures, reference)):.2f}"


def median(figures: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """Formats the median and, in brackets, the inter-quartile range."""
    low, middle, high = np.percentile(np.asarray(figures) * scale, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def milliseconds(figures: Sequence[float]) -> str:
    """Formats the median of seconds as milliseconds."""
    return median(figures, digits=2, scale=1e3)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; the first column is left-aligned, the others right-aligned."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(columns), line(rule), *map(line, rows)])


def header(title: str) -> str:
    """Returns the title and the command, commit, date, versions and hardware."""
    now = environment()
    command = shlex.join(
        ["python", "-m", f"benchmarks.{pathlib.Path(sys.argv[0]).stem}", *sys.argv[1:]]
    )
    # On a busy machine, ratios are still useful, milliseconds are not.
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
    """Prints the parts of a report, and writes them to a file if `output` is given."""
    text = "\n\n".join(parts) + "\n"
    print(text)
    if output:
        path = pathlib.Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
