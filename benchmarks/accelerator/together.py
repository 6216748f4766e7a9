"""Several runs trained as one program against the same runs trained one after the other."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from benchmarks import common
from benchmarks.accelerator import images
from benchmarks.accelerator.schedule import Options, Record
from s2mlp_jax import config as config_lib
from s2mlp_jax.models import PATTERNS
from s2mlp_jax.sweep.vectorize import timed_steps
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment

GROUPS = ((("a",), 3), (("a",), 8), (("a", "e", "none"), 3), (tuple(PATTERNS), 3))


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the times of one step of all runs of a group, for each group, the small ones first.

    The runs take the step one after the other ("one by one") and as one program ("together").
    """
    for patterns, seeds in GROUPS[:1] if options.on_cpu else GROUPS:
        runs = experiments(patterns, seeds, depth=2 if options.on_cpu else 0)
        rounds = 1 if options.on_cpu else options.rounds
        figures = common.alternate(timed_steps(runs), rounds, warmup=1)
        turns, one = figures["one by one"], figures["together"]
        yield {
            "name": f"{seeds} seeds of {len(patterns)} pattern{'s' * (len(patterns) > 1)}",
            "runs": len(runs),
            "one by one, ms": 1e3 * float(np.median(turns)),
            "together, ms": 1e3 * float(np.median(one)),
            "one by one / together": float(np.median(np.divide(turns, one))),
        }


def experiments(patterns: Sequence[str], seeds: int, depth: int) -> list[Experiment]:
    """Returns one run on the digits per pattern and seed, on one device."""
    splits = images.digits()
    config = config_lib.load_config(
        common.config_file("s2mlp_digits"), {"model.depth": depth} if depth else {}
    )
    runs = []
    for pattern in patterns:
        for seed in range(seeds):
            changed = config_lib.override(config, {"model.shift": pattern, "seed": seed})
            runs.append(create_experiment(changed, jax.devices()[:1], splits=splits))
    return runs
