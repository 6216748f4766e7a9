"""The training loop fed by the input pipeline, against the same loop with synthetic images.

    python -m benchmarks.fed_loop --data_dir=... --output=results/fed_loop.md

data_dir contains imagenet2012, as written by `python -m s2mlp_jax.data.prepare`; a few dozen
images are enough, since they are repeated. Every loop is `train_and_evaluate` at 224x224 pixels
with the recipe's crops, flips and three views per image. It logs images per second and the time
that the devices wait for data.

- s2mlp_wide, on the devices of this machine. On a CPU it shares the cores with the pipeline.
- A stand-in for an accelerator: a step that sleeps, so that the pipeline has all cores. It
  consumes 0.5, 0.8, 0.95 and 4 times the images per second that the pipeline alone produces,
  measured just before. With the last factor the devices wait most of the time, and the log must
  show this.
"""

import contextlib
import io
import itertools
import tempfile
import time
import typing
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from benchmarks import common
from benchmarks.accelerator.loop import loop_rate
from benchmarks.pipelines import CORES, FULL, open_repeated
from s2mlp_jax import config as config_lib
from s2mlp_jax.data import sources
from s2mlp_jax.data.noise import open_noise
from s2mlp_jax.train import create, feed
from s2mlp_jax.train import devices as devices_lib

SPEEDS = (0.5, 0.8, 0.95, 4.0)  # images per second of the stand-in / the pipeline
_ASLEEP_BATCH = 64


class Loop(typing.NamedTuple):
    """Logged figures of a loop: images per second, and the fraction of time waiting for data."""

    images_per_second: float
    data_wait: float


def make_config(
    batch_size: int, every: int, lines: int, **model: typing.Any
) -> ml_collections.ConfigDict:
    """Returns the config of a loop that logs one line to warm up and then `lines` lines.

    Args:
      batch_size: images per step.
      every: steps per line of the log.
      lines: number of measured lines.
      **model: fields of s2mlp_wide to change.
    """
    overrides = {
        **{f"model.{field}": value for field, value in model.items()},
        "train.batch_size": batch_size,
        "train.steps": every * (1 + lines),
        "train.dtype": "float32",
        "data.num_threads": CORES,
        "optimizer.warmup_epochs": 0.0,
        "eval.batch_size": 4,
        "eval.every_epochs": 1e9,
        "checkpoint.every_epochs": 1e9,
        "log.every_steps": every,
        "log.tensorboard": False,
    }
    return config_lib.load_config(common.config_file("s2mlp_wide"), overrides)


def run_loop(config: ml_collections.ConfigDict, images: sources.Split) -> Loop:
    """Trains once in a new folder; returns the logged figures."""
    splits = images, open_noise("test[:4]")  # the evaluation is not measured
    run = create.create_experiment(config, splits=splits)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return Loop(*loop_rate(run))


def sleeping_step(seconds: float) -> typing.Any:
    """Returns a stand-in for `make_train_step`; its step sleeps and changes only the counter."""

    def sleep(step: jax.Array, pixel: jax.Array) -> jax.Array:
        del pixel
        time.sleep(seconds)
        return step

    def step(
        state: typing.Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[typing.Any, dict[str, jax.Array]]:
        del key
        # The inputs make the step wait for the previous step and for the batch.
        pixel = batch["image"][0, 0, 0, 0]
        now = jax.ShapeDtypeStruct((), jnp.int32)
        ended = jax.pure_callback(sleep, now, state.step, pixel) + 1
        zero = ended * 0.0
        figures = {"loss": zero, "grad_norm": zero, "learning_rate": zero}
        return state._replace(step=ended), figures

    return lambda *_: jax.jit(step, donate_argnums=0)


def pipeline_rate(config: ml_collections.ConfigDict, images: sources.Split, batches: int) -> float:
    """Returns the images per second of the pipeline alone, including the copy to the device."""
    splits = images, open_noise("test[:4]")
    run = create.create_experiment(config, splits=splits)
    stream = run.train_batches(0)

    def take(count: int) -> None:
        for batch in itertools.islice(stream, count):
            jax.block_until_ready(devices_lib.shard_batch(run.layout, batch))

    take(12)
    start = time.perf_counter()
    take(batches)
    return batches * config.train.batch_size / (time.perf_counter() - start)


def compare(
    config: ml_collections.ConfigDict, real: sources.Split, rounds: int
) -> Iterator[tuple[Loop, Loop]]:
    """Yields the figures of the loop with real and with synthetic images, run alternately."""
    synthetic = open_noise(f"train[:{len(real)}]")
    for i in range(rounds):
        pair = {}
        for images in (real, synthetic) if i % 2 else (synthetic, real):
            pair[images.name] = run_loop(config, images)
        yield pair[real.name], pair[synthetic.name]


def row(name: str, pairs: list[tuple[Loop, Loop]]) -> list[str]:
    """Formats one row of the table."""
    fed, synthetic = zip(*pairs, strict=True)
    rates = [[loop.images_per_second for loop in loops] for loops in (fed, synthetic)]
    waits = [100 * loop.data_wait for loop in fed]
    return [
        name,
        *(common.median(r, digits=1) for r in rates),
        f"{np.median(np.divide(rates[0], rates[1])):.3f}",
        common.median(waits, digits=1),
    ]


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--data_dir", required=True, help="folder of the prepared imagenet2012")
    parser.add_argument(
        "--batch_size", type=int, default=6, help="batch size of s2mlp_wide; default 6"
    )
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax logs every checkpoint
    top = common.header("A fed training loop")
    real = open_repeated(FULL, args.data_dir)
    rows = []

    # The sleeping step computes nothing; a small model makes the cost of its state negligible.
    small = make_config(_ASLEEP_BATCH, every=12, lines=4, depth=1, dim=16)
    alone: list[float] = []
    by_speed: dict[float, list[tuple[Loop, Loop]]] = {speed: [] for speed in SPEEDS}
    for i in range(args.rounds):
        rate = pipeline_rate(small, real, batches=40)
        alone.append(rate)
        for speed in SPEEDS:
            step = sleeping_step(_ASLEEP_BATCH / (speed * rate))
            with mock.patch.object(feed, "make_train_step", step):
                by_speed[speed] += compare(small, real, 1)
        print(f"round {i + 1} of {args.rounds}: {rate:.0f} images/s", flush=True)
    for speed, pairs in by_speed.items():
        rows.append(row(f"asleep, {speed:g} times the pipeline", pairs))

    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)  # compile once
        wide = make_config(args.batch_size, every=1, lines=4)
        rows.insert(0, row("s2mlp_wide, these devices", list(compare(wide, real, args.rounds))))
    notes = (
        f"{FULL}, data.prefetch={small.data.prefetch}, {CORES} threads. The pipeline alone made "
        f"{common.median(alone, digits=0)} images/s. Batches of {args.batch_size} for s2mlp_wide, "
        f"float32, of {_ASLEEP_BATCH} for the sleeping steps. Medians over {args.rounds} rounds, "
        "each of which measures both loops in turn; the inter-quartile range is in brackets. The "
        "ratio is the median of the ratios per round; the waiting is what the fed loop logged."
    )
    columns = ["step", "fed images/s", "synthetic images/s", "fed / synthetic", "waiting, %"]
    common.publish([top, notes, common.table(columns, rows)], args.output)


if __name__ == "__main__":
    main()
