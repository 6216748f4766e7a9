"""The training loop against its bare compiled step: what looping, moving data and logging cost.

    python -m benchmarks.train_loop --output=results/train_loop.md

The loop is `train_and_evaluate`, with a line of metrics every few steps; it evaluates and saves
only at the end. Its images per second are its own, from metrics.jsonl, which exclude compiling
and evaluating. The bare step is the same step, called as often on one batch that stays on the
device. Both leave their first steps, up to the first line, out. The images are synthetic: one
batch in memory, moved to the device at every step; reading and augmenting are not measured.
"""

import contextlib
import dataclasses
import io
import pathlib
import tempfile
import time
import typing
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from absl import logging

from benchmarks import common
from s2mlp_jax import config as config_lib
from s2mlp_jax.saved.metrics import read_metrics
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.experiment import create_experiment
from s2mlp_jax.train.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and how long to train it: `lines` lines of `every` steps, and one to warm up."""

    model: str
    image_size: int
    every: int
    lines: int

    @property
    def steps(self) -> int:
        """Steps that are measured."""
        return self.every * self.lines

    def config(self, batch_size: int) -> ml_collections.ConfigDict:
        """Returns the config of the loop."""
        overrides = {
            "model.name": self.model,
            "data.name": "synthetic",
            "data.image_size": self.image_size,
            "data.eval_crop_ratio": 1.0,
            "train.batch_size": batch_size,
            "train.steps": self.every + self.steps,
            "train.dtype": "float32",
            "optimizer.warmup_epochs": 0.0,
            "eval.batch_size": batch_size,
            "eval.every_epochs": 1e6,
            "checkpoint.every_epochs": 1e6,
            "log.every_steps": self.every,
            "log.tensorboard": False,
        }
        return config_lib.load_config(common.config_file("s2mlp_wide"), overrides)


CASES = (Case("s2mlp_digits", 8, every=20, lines=15), Case("s2mlp_cifar", 32, every=3, lines=4))


def logged_lines(config: ml_collections.ConfigDict) -> list[dict[str, typing.Any]]:
    """Trains once in a new folder; returns the lines of training metrics after the first."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train_and_evaluate(config, folder)
        lines = read_metrics(pathlib.Path(folder) / "metrics.jsonl")
    return [line for line in lines if "train/loss" in line][1:]


def mean_rate(lines: list[dict[str, typing.Any]]) -> float:
    """Returns the images per second over lines of equally many images: their harmonic mean."""
    return 1 / float(np.mean([1 / line["train/images_per_second"] for line in lines]))


def bare_step(config: ml_collections.ConfigDict) -> Callable[[], float]:
    """Compiles the step; returns a measurement of its images per second on a fixed batch."""
    run = create_experiment(config)
    batch = devices_lib.shard_batch(run.layout, next(run.train_batches(0)))
    step = make_train_step(run)
    compiled = step.lower(run.abstract_state(), batch, run.key).compile()
    warmup = config.log.every_steps
    steps = config.train.steps - warmup

    def measure() -> float:
        state = run.draw_state()
        for _ in range(warmup):
            state, _ = compiled(state, batch, run.key)
        jax.block_until_ready(state)
        start = time.perf_counter()
        for _ in range(steps):
            state, _ = compiled(state, batch, run.key)
        jax.block_until_ready(state)
        return steps * config.train.batch_size / (time.perf_counter() - start)

    return measure


def compare(case: Case, batch_size: int, rounds: int) -> list[str]:
    """Measures one model; returns its row."""
    config = case.config(batch_size)
    measurements = {"loop": lambda: mean_rate(logged_lines(config)), "bare": bare_step(config)}
    figures = common.alternate(measurements, rounds, warmup=0)
    return [
        case.model,
        f"{1e3 * batch_size / np.median(figures['bare']):.1f}",
        str(case.steps),
        common.median(figures["loop"], digits=0),
        common.median(figures["bare"], digits=0),
        f"{np.median(np.divide(figures['loop'], figures['bare'])):.3f}",
    ]


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every checkpoint
    top = common.header("Training loop")  # before the work, for the load that others cause
    notes = (
        f"Batch {args.batch_size}, float32. Medians over {args.rounds} rounds, each of which takes "
        "the loop and the bare step once; in brackets the inter-quartile range. The ratio is the "
        "median of the rounds' ratios."
    )
    with tempfile.TemporaryDirectory() as cache:
        # So that every run of the loop has the bare one's executable, and need not compile.
        jax.config.update("jax_compilation_cache_dir", cache)
        rows = [compare(case, args.batch_size, args.rounds) for case in CASES]
    columns = ["", "ms a step", "steps", "loop images/s", "bare images/s", "loop / bare"]
    common.publish([top, notes, common.table(columns, rows)], args.output)


if __name__ == "__main__":
    main()
