"""Small images: the training loop with the images in device memory, and fed by the host.

    python -m benchmarks.small_images --output=results/small_images.md

Both loops run as a user runs them, with the config's log lines. They are compared with their
programs alone: one step on one batch, and the program of many steps. All see the same load, as
each is measured once per round. Each case is printed as soon as it is measured.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common
from benchmarks.accelerator import images
from benchmarks.accelerator.loop import loop_rate
from s2mlp_jax import config as config_lib
from s2mlp_jax.data.resident import Place
from s2mlp_jax.data.split import Split
from s2mlp_jax.train import devices, feed
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.step import MOST_STEPS, make_train_step

KINDS = ("loop, device", "loop, host", "one step", "many steps")


class Case(NamedTuple):
    """A config with changes, its images, and the number of measured steps."""

    config: str
    changes: dict[str, Any]
    splits: Callable[[], tuple[Split, Split]]
    steps: int

    def experiment(self) -> Experiment:
        """Returns a run on one device that logs as its config says, and evaluates at the end."""
        config = config_lib.load_config(
            common.config_file(self.config),
            {
                "data.place": "device",
                "data.num_threads": min(16, common.CORES),
                "eval.every_epochs": 1e9,
                "checkpoint.every_epochs": 1e9,
                "log.tensorboard": False,
                "optimizer.warmup_epochs": 0.0,
                **self.changes,
            },
        )
        # The first line of the log is not measured.
        config = config_lib.override(config, {"train.steps": self.steps + config.log.every_steps})
        return create_experiment(config, jax.devices()[:1], splits=self.splits())


def make_cases(on_cpu: bool) -> dict[str, Case]:
    """Returns the cases; on a CPU, CIFAR's is one of its eight blocks and a small batch."""
    small = {"train.batch_size": 32, "model.depth": 1, "log.every_steps": 4} if on_cpu else {}
    return {
        "one block": Case(
            "s2mlp_digits",
            {"model.depth": 1, "model.dim": 16},
            images.digits,
            steps=200 if on_cpu else 2000,
        ),
        "digits": Case("s2mlp_digits", {}, images.digits, steps=80 if on_cpu else 2000),
        "cifar": Case(
            "s2mlp_cifar10",
            small,
            lambda: images.noise(1000 if on_cpu else 50_000, 1000, 32, 3),
            steps=8 if on_cpu else 500,
        ),
    }


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Returns images per second of each kind, one figure per round."""
    run = case.experiment()
    on_host = run.placed(Place(False, ""))
    size, key = run.options.train.batch_size, run.key

    def loop(run: Experiment) -> Callable[[], float]:
        def rate() -> float:
            with contextlib.redirect_stdout(io.StringIO()):
                return loop_rate(run)[0]

        return rate

    def timed(program: Any, *inputs: Any, steps: int) -> Callable[[], float]:
        def rate() -> float:
            state, _ = program(run.draw_state(), *inputs, key)
            jax.block_until_ready(state)
            start = time.perf_counter()
            for _ in range(max(1, case.steps // steps)):
                state, _ = program(state, *inputs, key)
            jax.block_until_ready(state)
            return max(1, case.steps // steps) * steps * size / (time.perf_counter() - start)

        return rate

    batch = devices.shard_batch(run.layout, next(on_host.train_batches(0)))
    one = make_train_step(run).lower(run.abstract_state(), batch, key).compile()
    many = feed.make_program(run).lower(*feed.abstract_arguments(run)).compile()
    count = min(MOST_STEPS, run.options.log.every_steps)
    records = feed.StepRecords(len(run.train_split), 0, size, run.options.data.repeats)
    places = run.layout.stacked_batch, run.layout.replicated
    inputs = jax.device_put((records(0, MOST_STEPS), np.int32(count)), places)
    measurements = (
        loop(run),
        loop(on_host),
        timed(one, batch, steps=1),
        timed(many, run.device_data.training, *inputs, steps=count),
    )
    return common.alternate(dict(zip(KINDS, measurements, strict=True)), rounds, warmup=1)


def main() -> None:
    """Measures the cases, and writes the report."""
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--cases", default="", help="comma-separated; all by default")
    args = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    cases = make_cases(jax.default_backend() == "cpu")
    rows = []
    columns = ("", *(f"{kind}, images/s" for kind in KINDS))
    ratios = ("device / many steps", "device / one step", "device / host")
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)  # the loops compile nothing anew
        for name in args.cases.split(",") if args.cases else cases:
            figures = measure(cases[name], args.rounds)
            device, host, one, many = (figures[kind] for kind in KINDS)
            row = [name, *(common.median(figures[kind], digits=0) for kind in KINDS)]
            row += [common.ratio(device, other) for other in (many, one, host)]
            rows.append(row)
            print("  ".join(row), flush=True)
    notes = (
        f"Medians over {args.rounds} rounds, in brackets the inter-quartile range; the ratios are "
        "medians of the ratios per round. 1 - device / many steps is the part of the training "
        "time outside steps. one block: `s2mlp_digits` with one block of 16 channels, batch 64, "
        "a log line every 20 steps; digits: the config as it is; cifar: `s2mlp_cifar10` with its "
        "whole recipe on noise, on a CPU one block and batch 32."
    )
    parts = [common.header("Small images"), notes, common.table((*columns, *ratios), rows)]
    common.publish(parts, args.output)


if __name__ == "__main__":
    main()
