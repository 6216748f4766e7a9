"""Runs one job in its own process and prints its records as JSON lines.

    python -m benchmarks.accelerator.job PART NAME OPTIONS

A crash or an out-of-memory error then affects only this job, and the device's memory is free
afterwards.
"""

import importlib
import json
import os
import sys
from collections.abc import Iterator

from benchmarks.accelerator.schedule import MODULES, Options, Record


def device() -> Iterator[Record]:
    """Yields the device, its platform, and the versions of the packages."""
    import importlib.metadata
    import platform

    import jax

    from benchmarks import common

    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    here = jax.devices()[0]
    limit = (here.memory_stats() or {}).get("bytes_limit")
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "torch", "timm")
    yield {
        "name": here.device_kind,
        "platform": here.platform,
        "devices": len(jax.devices()),
        "memory, GiB": limit and limit / 2**30,
        "CPU cores": common.CORES,
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def main() -> None:
    """Runs the job that the command line names."""
    part, name, options = sys.argv[1:]
    # Output of training, from this process or its children, must not mix with the records.
    records = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if part == "device":
        found = device()
    else:
        module = importlib.import_module(f"benchmarks.accelerator.{MODULES.get(part, part)}")
        found = module.measure(Options.from_json(options), name)
    for record in found:
        print(json.dumps(record), file=records, flush=True)


if __name__ == "__main__":
    main()
