"""Builds the objects of a run from its config, and finds the user's mistakes at the start."""

from collections.abc import Sequence

import jax
import ml_collections
from jax.experimental import multihost_utils

from s2mlp_jax import config as config_lib
from s2mlp_jax.data import sources
from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.data.resident import Place, choose_place
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train import optim
from s2mlp_jax.train.evaluate import make_eval_step
from s2mlp_jax.train.experiment import Experiment


def open_data(data: DataOptions) -> tuple[sources.Split, sources.Split]:
    """Opens the training and the evaluation split; prepares the data first if needed.

    Raises:
      ValueError: if the data are missing; the message says what to do.
    """
    if jax.process_index() == 0:
        sources.prepare(data.name, data.data_dir, data.download)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("data prepared")
    how = (data.data_dir, data.cache, data.channels, data.on_corrupt, data.max_pixels)
    return (
        sources.open_split(data.name, data.train_split, *how),
        sources.open_split(data.name, data.eval_split, *how),
    )


def create_experiment(
    config: ml_collections.ConfigDict,
    devices: Sequence[jax.Device] | None = None,
    for_training: bool = True,
    splits: tuple[sources.Split, sources.Split] | None = None,
) -> Experiment:
    """Builds everything that a run needs, and checks everything that a user can get wrong.

    Args:
      config: a completed config (`config.complete`).
      devices: all devices by default.
      for_training: False for evaluation only, where the devices need not divide the training
        batch, and the images are on the host.
      splits: for training and evaluation; by default opened from the config.

    Raises:
      ValueError: if a value is wrong; the message names it and what is allowed.
    """
    options = config_lib.to_options(config)
    train, data = options.train, options.data
    layout = devices_lib.make_layout(devices, train.shard_state)
    if for_training:
        parts = " / train.accumulation_steps" if train.accumulation_steps > 1 else ""
        devices_lib.check_divides(
            f"train.batch_size{parts}", train.images_per_part, layout.mesh.size
        )
    train_split, eval_split = splits or open_data(data)
    if len(data.mean) != train_split.channels:
        raise ValueError(
            f"{train_split.name} has images of {train_split.channels} channels, but data.mean "
            f"and data.std are for {len(data.mean)}. Change these, or read the images in "
            "colour (data.channels=3) or grey (1)."
        )
    if for_training and train.batch_size > len(train_split):
        raise ValueError(
            f"train.batch_size {train.batch_size} is greater than the number of training images: "
            f"{train_split.name} has {len(train_split)}."
        )
    place = Place(False, "on the host, for one evaluation")
    if for_training:
        memory = devices_lib.usable_memory(layout.mesh.devices.flat[0], layout.mesh.size)
        place = choose_place(data, (train_split, eval_split), memory, jax.process_count())
    total_steps, steps_per_epoch = options.count_steps(len(train_split))
    model = options.make_model(train_split.num_classes)
    schedule = optim.make_schedule(options, total_steps, steps_per_epoch)
    optimizer = optim.make_optimizer(options, schedule)
    run = Experiment(
        config=config,
        layout=layout,
        train_split=train_split,
        eval_split=eval_split,
        model=model,
        schedule=schedule,
        optimizer=optimizer,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        place=place,
        eval_step=make_eval_step(model, data.mean, data.std, layout),
    )
    if options.freeze:
        optim.frozen(options.freeze, run.abstract_state().params)  # checks the patterns
    return run
