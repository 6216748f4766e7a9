"""A config as typed values: one frozen dataclass per group, which checks itself.

`config.to_options` makes them. The groups `data` and `augment` are defined where they are used;
those of training are defined here, as `config` must not import `train`.
"""

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from s2mlp_jax.checks import Choices, Range, Text, check_fields
from s2mlp_jax.data.on_device import Augmentation
from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.models import Model, build
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import VARIANTS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Images per batch, steps (JAX counts them in 32 bits), epochs between two events, and rates, which
# are finite in float32. The upper ends are far above what is of use, and below what hangs or takes
# all memory.
_Images = Annotated[int, Range("[1, 2^20]")]
_Steps = Annotated[int, Range("[0, 2^31)")]
_Interval = Annotated[float, Range("[1e-6, 1e12]")]
_Rate = Annotated[float, Range("[0, 1e38]")]


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The group `model`: the variant's name, and its architecture with all fields filled in."""

    name: Annotated[str, Choices(VARIANTS)]
    variant: Variant


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The group `train`.

    Attributes:
      batch_size: images per step, over all devices and accumulation steps.
      accumulation_steps: parts of the batch whose gradients are summed.
      epochs: length of the run in epochs, if `steps` is 0.
      steps: length of the run in steps, if not 0.
      label_smoothing: fraction of a target that is uniform over the classes.
      ema_decay: decay of the averaged weights, 0 for no average.
      dtype: type used in computation, one of `DTYPES`; weights are float32.
      remat: whether the backward pass computes each block again.
      shard_state: whether weights, optimizer state and average are sharded over the devices.
    """

    batch_size: _Images
    accumulation_steps: _Images
    epochs: Annotated[float, Range("[0, 1e6]")]
    steps: _Steps
    label_smoothing: Annotated[float, Range("[0, 1)")]
    ema_decay: Annotated[float, Range("[0, 1)")]
    dtype: Annotated[str, Choices(DTYPES)]
    remat: bool
    shard_state: bool

    def __post_init__(self) -> None:
        check_fields("train.", self)
        if self.steps == 0 and self.epochs == 0:
            raise ValueError("train.steps or train.epochs must be greater than 0, both are 0.")
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"train.accumulation_steps {self.accumulation_steps} does not divide "
                f"train.batch_size {self.batch_size}."
            )

    @property
    def images_per_part(self) -> int:
        """Number of images of the batch that are computed at once."""
        return self.batch_size // self.accumulation_steps


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The group `optimizer`: AdamW, its learning rates and weight decay.

    Attributes:
      learning_rate: peak rate, for a batch of `reference_batch_size`.
      reference_batch_size: the peak scales with batch size / this value; 0 for no scaling.
      warmup_epochs: epochs of linear growth from `warmup_learning_rate`.
      warmup_learning_rate, final_learning_rate: first and last rate, not scaled.
      weight_decay: weight decay, applied only to kernels.
      beta1, beta2, eps: parameters of AdamW.
      grad_clip_norm: largest norm of the gradient, 0 for no clipping.
      layer_decay: factor on the rate per layer, from the head down; 1 for equal rates.
    """

    learning_rate: _Rate
    reference_batch_size: Annotated[int, Range("[0, 2^32)")]
    warmup_epochs: Annotated[float, Range("[0, 1e6]")]
    warmup_learning_rate: _Rate
    final_learning_rate: _Rate
    weight_decay: _Rate
    beta1: Annotated[float, Range("[0, 1)")]
    beta2: Annotated[float, Range("[0, 1)")]
    eps: Annotated[float, Range("[1e-30, 1]")]  # with 0, a gradient of 0 makes weights NaN
    grad_clip_norm: _Rate
    layer_decay: Annotated[float, Range("(0, 1]")]

    def __post_init__(self) -> None:
        check_fields("optimizer.", self)


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """The group `eval`: how often to evaluate, and the batch size."""

    every_epochs: _Interval
    batch_size: _Images

    def __post_init__(self) -> None:
        check_fields("eval.", self)


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """The group `checkpoint`: how often to save, and how many to keep besides the best."""

    every_epochs: _Interval
    keep: Annotated[int, Range("[1, 1e6]")]

    def __post_init__(self) -> None:
        check_fields("checkpoint.", self)


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """The group `log`: steps between two lines, and whether to write TensorBoard files."""

    every_steps: Annotated[int, Range("[1, 2^31)")]
    tensorboard: bool

    def __post_init__(self) -> None:
        check_fields("log.", self)


@dataclasses.dataclass(frozen=True)
class Options:
    """A whole config, one attribute per group.

    Attributes:
      seed: seed of weights, data order, augmentation and drop path.
      init_from: a model to start from, "" for random weights.
      freeze: patterns of parameters that do not change, separated by commas.

    Raises:
      ValueError: at construction, if groups are not compatible with each other.
    """

    model: ModelOptions
    seed: Annotated[int, Range("[0, 2^32)")]
    init_from: Annotated[str, Text()]
    freeze: Annotated[str, Text()]
    data: DataOptions
    augment: Augmentation
    train: TrainOptions
    optimizer: OptimizerOptions
    eval: EvalOptions
    checkpoint: CheckpointOptions
    log: LogOptions

    def __post_init__(self) -> None:
        check_fields("", self)
        try:
            self.model.variant.grids(self.data.image_size)
        except ValueError as error:
            raise ValueError(f"data.{error}") from None
        if self.data.repeats > self.train.batch_size:
            raise ValueError(
                f"data.repeats {self.data.repeats}, the views of an image in a batch, is greater "
                f"than train.batch_size {self.train.batch_size}."
            )
        if self.augment.mixes and self.train.images_per_part % 2:
            raise ValueError(
                "Mixup and cutmix pair the images, so train.batch_size / train.accumulation_steps "
                f"must be even, got {self.train.images_per_part}. "
                "Or turn them off with augment.mix_prob=0."
            )

    def make_model(self, num_classes: int) -> Model:
        """Returns the model, which computes in `train.dtype`."""
        train = self.train
        return build(self.model.variant, num_classes, DTYPES[train.dtype], train.remat)

    def count_steps(self, train_images: int) -> tuple[int, float]:
        """Returns the steps of the whole run, and the steps per epoch, not rounded.

        Raises:
          ValueError: the epochs are less than a step, or more steps than are counted.
        """
        train = self.train
        steps_per_epoch = train_images / train.batch_size
        steps = train.steps or round(train.epochs * steps_per_epoch)
        if not 0 < steps < 2**31:
            raise ValueError(
                f"train.epochs {train.epochs} of {train_images:,} images, in batches of "
                f"train.batch_size {train.batch_size}, is {steps} steps. A run has 1 to 2^31 - 1."
            )
        return steps, steps_per_epoch
