"""A config as typed values: one frozen dataclass per group, which checks itself.

`config.to_options` makes them. The groups `data` and `augment` are defined where they are used;
those of training are defined here, as `config` must not import `train`.
"""

import dataclasses

import jax.numpy as jnp

from s2mlp_jax.checks import check_choices, check_positive, check_range
from s2mlp_jax.data.on_device import Augmentation
from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.models import Model, build
from s2mlp_jax.models.variant import Variant

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The group `model`: the variant's name, and its architecture with all fields filled in."""

    name: str
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

    batch_size: int
    accumulation_steps: int
    epochs: float
    steps: int
    label_smoothing: float
    ema_decay: float
    dtype: str
    remat: bool
    shard_state: bool

    def __post_init__(self) -> None:
        check_choices("train.", self, dtype=DTYPES)
        check_positive("train.", self, "batch_size", "accumulation_steps")
        check_range("train.", self, "[0, 1)", "label_smoothing", "ema_decay")
        if self.steps < 0 or (self.steps == 0 and not self.epochs > 0):
            raise ValueError(
                "train.steps or train.epochs must be greater than 0, "
                f"got {self.steps} and {self.epochs}."
            )
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

    learning_rate: float
    reference_batch_size: int
    warmup_epochs: float
    warmup_learning_rate: float
    final_learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    grad_clip_norm: float
    layer_decay: float

    def __post_init__(self) -> None:
        check_range("optimizer.", self, "[0, 2^32)", "reference_batch_size", "warmup_epochs")
        check_range("optimizer.", self, "(0, 1]", "layer_decay")


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """The group `eval`: how often to evaluate, and the batch size."""

    every_epochs: float
    batch_size: int

    def __post_init__(self) -> None:
        check_positive("eval.", self, "every_epochs", "batch_size")


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """The group `checkpoint`: how often to save, and how many to keep besides the best."""

    every_epochs: float
    keep: int

    def __post_init__(self) -> None:
        check_positive("checkpoint.", self, "every_epochs", "keep")


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """The group `log`: steps between two lines, and whether to write TensorBoard files."""

    every_steps: int
    tensorboard: bool

    def __post_init__(self) -> None:
        check_positive("log.", self, "every_steps")


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
    seed: int
    init_from: str
    freeze: str
    data: DataOptions
    augment: Augmentation
    train: TrainOptions
    optimizer: OptimizerOptions
    eval: EvalOptions
    checkpoint: CheckpointOptions
    log: LogOptions

    def __post_init__(self) -> None:
        check_range("", self, "[0, 2^32)", "seed")
        try:
            self.model.variant.grids(self.data.image_size)
        except ValueError as error:
            raise ValueError(f"data.{error}") from None
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
        """Returns the steps of the whole run, and the steps per epoch, not rounded."""
        steps_per_epoch = train_images / self.train.batch_size
        return self.train.steps or round(self.train.epochs * steps_per_epoch), steps_per_epoch
