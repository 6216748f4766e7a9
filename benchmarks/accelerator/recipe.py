"""The training step of the whole recipe, and the share of the augmentation."""

import types
import typing
from collections.abc import Callable, Iterator

import jax
import ml_collections
import numpy as np

from benchmarks import common
from benchmarks.accelerator import timing
from benchmarks.accelerator.schedule import Options, Record
from s2mlp_jax import config as config_lib
from s2mlp_jax.data.on_device import training_batch
from s2mlp_jax.train import devices, optim
from s2mlp_jax.train.state import create_state
from s2mlp_jax.train.step import make_train_step

CLASSES = 1000
OFF = {"augment.randaugment_ops": 0, "augment.erasing_prob": 0.0, "augment.mix_prob": 0.0}


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the times of the step with and without augmentation, and of augmentation alone."""
    file = common.config_file("s2mlp_cifar10" if options.on_cpu else "s2mlp_wide")
    overrides: dict[str, typing.Any] = {"train.dtype": options.dtype}
    if options.depth:
        overrides["model.depth"] = options.depth
    for batch_size in timing.batches(options.batch_size):
        overrides["train.batch_size"] = batch_size
        config = config_lib.load_config(file, overrides)
        try:
            calls = {
                "whole recipe": _training(config),
                "without augmentation": _training(config_lib.override(config, OFF)),
                "augmentation alone": _augmentation(config),
            }
            seconds = timing.by_turns(calls, options.seconds, options.rounds)
        except jax.errors.JaxRuntimeError as error:
            if not timing.out_of_memory(error):
                raise
            continue
        whole, bare = seconds["whole recipe"], seconds["without augmentation"]
        share = float(np.median(np.subtract(whole, bare) / np.asarray(whole)))
        for row, figures in seconds.items():
            median = float(np.median(figures))
            record: Record = {
                "name": row,
                "batch": batch_size,
                "images/s": batch_size / median,
                "ms per step": 1e3 * median,
            }
            if row == "whole recipe":
                record["augmentation, %"] = 100 * share
            yield record
        return


def _batch(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    size, batch_size = config.data.image_size, config.train.batch_size
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
        "label": rng.integers(0, CLASSES, batch_size, np.int32),
    }


def _training(config: ml_collections.ConfigDict) -> Callable[[], typing.Any]:
    """Returns a function that takes a training step of the recipe on one device.

    An `Experiment` would do the same, but needs the packages of the data sets.
    """
    options = config_lib.to_options(config)
    total_steps, steps_per_epoch = options.count_steps(1_281_167)
    schedule = optim.make_schedule(options, total_steps, steps_per_epoch)
    run = types.SimpleNamespace(
        options=options,
        model=options.make_model(CLASSES),
        schedule=schedule,
        optimizer=optim.make_optimizer(options, schedule),
        layout=devices.make_layout(jax.devices()[:1]),
    )
    key = jax.random.key(0)
    use_ema = options.train.ema_decay > 0
    state = create_state(run.model, run.optimizer, key, options.data.image_size, 3, use_ema)
    batch = devices.shard_batch(run.layout, _batch(config))
    step = make_train_step(typing.cast(typing.Any, run))

    def call() -> typing.Any:
        nonlocal state
        state, metrics = step(state, batch, key)
        return state, metrics

    return call


def _augmentation(config: ml_collections.ConfigDict) -> Callable[[], typing.Any]:
    options = config_lib.to_options(config)
    mean, std, smoothing = options.data.mean, options.data.std, options.train.label_smoothing

    @jax.jit
    def augment(key: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return training_batch(key, batch, options.augment, mean, std, CLASSES, smoothing)

    arguments = jax.random.key(0), jax.device_put(_batch(config))
    return lambda: augment(*arguments)
