"""A run as one object: its data, model, optimizer and schedule; nothing is trained here."""

import dataclasses
import functools
import typing
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_collections
import optax

from s2mlp_jax import config as config_lib
from s2mlp_jax.data import sources
from s2mlp_jax.data.pipeline import Batch, eval_batches, train_batches
from s2mlp_jax.data.resident import Place
from s2mlp_jax.models import Model
from s2mlp_jax.models.cost import Cost, variant_cost
from s2mlp_jax.options import Options
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.data_sheets import data_sheet
from s2mlp_jax.train.device_data import DeviceData
from s2mlp_jax.train.evaluate import EvalStep, evaluate, make_whole_eval_step
from s2mlp_jax.train.initial_weights import InitialWeights, read_initial_weights
from s2mlp_jax.train.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects of a run, built from its config; nothing is trained yet.

    Attributes:
      total_steps: training steps of the whole run.
      steps_per_epoch: training images divided by the batch size, not rounded.
      eval_step: for one batch.
      place: where the images are.
    """

    config: ml_collections.ConfigDict
    layout: devices_lib.Layout
    train_split: sources.Split
    eval_split: sources.Split
    model: Model
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    eval_step: EvalStep
    total_steps: int
    steps_per_epoch: float
    place: Place

    @functools.cached_property
    def options(self) -> Options:
        """The config as typed options."""
        return config_lib.to_options(self.config)

    @functools.cached_property
    def key(self) -> jax.Array:
        """The run's random key, on all devices. Every random number derives from it."""
        return devices_lib.replicate(self.layout, jax.random.key(self.options.seed))

    @functools.cached_property
    def cost(self) -> Cost:
        """The model's cost: parameters, and multiply-accumulates of a forward pass."""
        return variant_cost(
            self.model.variant,
            self.options.data.image_size,
            self.model.num_classes,
            self.train_split.channels,
        )

    @property
    def macs_per_image(self) -> int:
        """Multiply-accumulates of one image's forward pass, including the products in attention."""
        return self.cost.macs + self.cost.attention_macs

    @functools.cached_property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(x.size for x in jax.tree.leaves(self.abstract_state().params))

    def with_seed(self, seed: int) -> "Experiment":
        """Returns the same experiment with another seed; both share compiled functions."""
        _ = self._shapes, self._initial  # they do not depend on the seed, and are slow to compute
        return self._changed(config=config_lib.override(self.config, {"seed": seed}))

    def placed(self, place: Place) -> "Experiment":
        """Returns the same experiment with the images at another place."""
        return self._changed(place=place)

    def _changed(self, **fields: typing.Any) -> "Experiment":
        other = dataclasses.replace(self, **fields)
        _ = self.device_data, self._whole_eval_step  # to load and to compile only once
        shared = ("_shapes", "_initial", "device_data", "_whole_eval_step")
        vars(other).update({name: vars(self)[name] for name in shared if name in vars(self)})
        return other

    def mfu(self, images_per_second: float) -> float | None:
        """Returns the model FLOPs utilisation, or None if the devices' peak is unknown."""
        devices = self.layout.mesh.devices
        sheet = data_sheet(devices.flat[0])
        if sheet is None:
            return None
        # Two operations per multiply-accumulate; the backward pass costs twice the forward pass.
        return images_per_second * 6 * self.macs_per_image / (sheet.peak_flops * devices.size)

    def abstract_state(self) -> TrainState:
        """Returns the shapes, dtypes and shardings of the state, without its arrays."""
        return self._shapes

    @functools.cached_property
    def _shapes(self) -> TrainState:
        shapes = jax.eval_shape(self._draw, jax.random.key(0))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=self.layout.state_sharding(x.shape)
            ),
            shapes,
        )

    def abstract_step_arguments(
        self,
    ) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
        """Returns the shapes, dtypes and shardings of a training step's (state, batch, key)."""
        size, batch_size = self.options.data.image_size, self.options.train.batch_size
        shape = (batch_size, size, size, self.train_split.channels)
        cut, whole = self.layout.batch, self.layout.replicated
        batch = {
            "image": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=cut),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=cut),
        }
        if self.options.data.on_corrupt == "skip":
            batch["corrupt"] = jax.ShapeDtypeStruct((batch_size,), jnp.bool_, sharding=cut)
        key = jax.eval_shape(lambda: jax.random.key(self.options.seed))
        return (
            self.abstract_state(),
            batch,
            jax.ShapeDtypeStruct((), key.dtype, sharding=whole),
        )

    def initial_weights(self) -> InitialWeights | None:
        """Returns the weights to start from, or None if they are drawn; reads them only once.

        Raises:
          ValueError: as `read_initial_weights` does.
        """
        return self._initial

    def check_initial(self) -> None:
        """Reads the weights to start from, if any, to find errors before anything is written.

        Raises:
          ValueError: as `read_initial_weights` does.
        """
        self.initial_weights()

    @functools.cached_property
    def _initial(self) -> InitialWeights | None:
        if not self.options.init_from:
            return None
        return read_initial_weights(
            self.options.init_from,
            self.model.variant,
            self.abstract_state().variables,
            self.train_split.class_names,
            self.options.data,
        )

    def draw_state(self) -> TrainState:
        """Creates the initial state of a run, on all devices."""
        state = self._draw(jax.random.key(self.options.seed))
        if (initial := self.initial_weights()) is not None:
            state = initial.put_into(state)
        return devices_lib.place_state(self.layout, state)

    def _draw(self, key: jax.Array) -> TrainState:
        size, use_ema = self.options.data.image_size, self.options.train.ema_decay > 0
        return create_state(
            self.model, self.optimizer, key, size, self.train_split.channels, use_ema
        )

    def is_due(self, step: int, every_epochs: float) -> bool:
        """True at the first step that completes another `every_epochs`, and at the last step."""
        every_steps = every_epochs * self.steps_per_epoch
        return step == self.total_steps or int(step / every_steps) > int((step - 1) / every_steps)

    @functools.cached_property
    def device_data(self) -> DeviceData:
        """The images in the devices' memory, loaded when they are first used."""
        splits = (self.train_split, self.eval_split)
        return DeviceData(*splits, self.options.data, self.eval_batch_size, self.layout)

    @functools.cached_property
    def _whole_eval_step(self) -> EvalStep:
        data = self.options.data
        return make_whole_eval_step(self.model, data.mean, data.std, self.layout)

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """Yields this process's part of the training batches, from `start_step` on."""
        data, batch_size = self.options.data, self.options.train.batch_size
        return train_batches(
            self.train_split,
            self.options.data,
            seed=self.options.seed,
            batch_size=batch_size,
            positions=devices_lib.local_positions(self.layout, batch_size),
            repeats=data.repeats,
            start_step=start_step,
            num_threads=data.num_threads,
            prefetch=data.prefetch,
            on_corrupt=data.on_corrupt,
        )

    @property
    def eval_batch_size(self) -> int:
        """Evaluation batch size, rounded up for the devices; the last batch is padded anyway."""
        devices = self.layout.mesh.size
        return -(-self.options.eval.batch_size // devices) * devices

    def eval_batches(self) -> Iterator[Batch]:
        """Yields this process's part of the batches of one pass over the evaluation split."""
        batch_size = self.eval_batch_size
        return eval_batches(
            self.eval_split,
            self.options.data,
            batch_size,
            devices_lib.local_positions(self.layout, batch_size),
            self.options.data.num_threads,
            self.options.data.prefetch,
            self.options.data.on_corrupt,
        )

    def describe_data(self) -> dict[str, typing.Any]:
        """Returns the facts about the data for `data.json`, for use without the data."""
        parts = (("train", self.train_split), ("eval", self.eval_split))
        return {
            **{part: {"name": split.name, "images": len(split)} for part, split in parts},
            "channels": self.train_split.channels,
            "class_names": list(self.train_split.class_names),
        }

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Evaluates the parameters ("eval/...") and their average, if any ("eval_ema/...")."""
        variables = {"eval": state.variables}
        if state.ema_variables is not None:
            variables["eval_ema"] = state.ema_variables
        count = len(self.eval_split)
        if self.place.on_device:
            return evaluate(self._whole_eval_step, variables, [self.device_data.evaluation], count)
        batches = (devices_lib.shard_batch(self.layout, batch) for batch in self.eval_batches())
        return evaluate(self.eval_step, variables, batches, count)
