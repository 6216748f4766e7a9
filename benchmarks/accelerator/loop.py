"""The training loop with its input pipeline against its compiled step, on small images."""

import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common
from benchmarks.accelerator import images
from benchmarks.accelerator.schedule import Options, Record
from s2mlp_jax import config as config_lib
from s2mlp_jax.data.split import Split
from s2mlp_jax.saved.metrics import read_metrics
from s2mlp_jax.train import devices, step_cost
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.loop import train
from s2mlp_jax.train.step import make_train_step


class Case(NamedTuple):
    """A config, its images, and the length of its training.

    Attributes:
      every: steps per line of the log.
      lines: number of measured log lines, after a first line that is not measured.
    """

    config: str
    splits: tuple[Split, Split]
    batch_size: int
    every: int
    lines: int
    depth: int = 0

    @property
    def steps(self) -> int:
        """Number of measured steps."""
        return self.every * self.lines

    def experiment(self) -> Experiment:
        """Returns a run that evaluates and saves only at the end."""
        overrides: dict[str, Any] = {
            "train.batch_size": self.batch_size,
            "train.steps": self.every + self.steps,
            "optimizer.warmup_epochs": 0.0,
            "eval.every_epochs": 1e9,
            "checkpoint.every_epochs": 1e9,
            "log.every_steps": self.every,
            "log.tensorboard": False,
            "data.num_threads": min(16, common.CORES),
        }
        if self.depth:
            overrides["model.depth"] = self.depth
        config = config_lib.load_config(common.config_file(self.config), overrides)
        return create_experiment(config, jax.devices()[:1], splits=self.splits)


def make_case(name: str, on_cpu: bool) -> Case:
    """Returns a case: "digits", or "cifar" (noise of CIFAR-10's size with its whole recipe)."""
    if name == "digits":
        length = {"every": 10, "lines": 4, "depth": 2} if on_cpu else {"every": 100, "lines": 8}
        return Case("s2mlp_digits", images.digits(), 64, **length)
    length = {"every": 2, "lines": 2, "depth": 1} if on_cpu else {"every": 25, "lines": 6}
    splits = images.noise(1000 if on_cpu else 50_000, 1000, 32, 3)
    return Case("s2mlp_cifar10", splits, 32 if on_cpu else 256, **length)


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the rates of the loop and of its step, and the predicted time per step."""
    case = make_case(name, options.on_cpu)
    run = case.experiment()
    rounds = 1 if options.on_cpu else 3
    with tempfile.TemporaryDirectory() as cache:
        # The runs of the loop read the executable of the bare step instead of compiling.
        jax.config.update("jax_compilation_cache_dir", cache)
        bare = bare_step(run, case)
        waits: list[float] = []

        def loop() -> float:
            rate, wait = loop_rate(run)
            waits.append(wait)
            return rate

        rates = common.alternate({"loop": loop, "step": bare}, rounds, warmup=0)
    middle = {key: float(np.median(figures)) for key, figures in rates.items()}
    yield {
        "name": name,
        "batch": case.batch_size,
        "steps": case.steps,
        "loop, images/s": middle["loop"],
        "step, images/s": middle["step"],
        "loop / step": float(np.median(np.divide(rates["loop"], rates["step"]))),
        "waited for data, %": 100 * float(np.median(waits)),
        "loop, ms per step": 1e3 * case.batch_size / middle["loop"],
        "step, ms": 1e3 * case.batch_size / middle["step"],
        "plan, ms": 1e3 * step_cost.measure(run).step,
    }


def loop_rate(run: Experiment) -> tuple[float, float]:
    """Trains once in a new folder; returns images per second and the fraction of data wait."""
    with tempfile.TemporaryDirectory() as folder:
        train(run, folder)
        lines = read_metrics(pathlib.Path(folder) / "metrics.jsonl")
    lines = [line for line in lines if "train/loss" in line][1:]
    seconds = [1 / line["train/images_per_second"] for line in lines]  # per image
    waits = [line["train/data_wait"] for line in lines]
    return 1 / float(np.mean(seconds)), float(np.average(waits, weights=seconds))


def bare_step(run: Experiment, case: Case) -> Callable[[], float]:
    """Compiles the step; returns a measurement of its images per second on a fixed batch."""
    batch = devices.shard_batch(run.layout, next(run.train_batches(0)))
    compiled = make_train_step(run).lower(run.abstract_state(), batch, run.key).compile()

    def measure_once() -> float:
        state = run.draw_state()
        for _ in range(case.every):
            state, _ = compiled(state, batch, run.key)
        jax.block_until_ready(state)
        start = time.perf_counter()
        for _ in range(case.steps):
            state, _ = compiled(state, batch, run.key)
        jax.block_until_ready(state)
        return case.steps * case.batch_size / (time.perf_counter() - start)

    return measure_once
