"""Models: pure jax and flax, no TensorFlow, no flags, no config files, no I/O."""

import typing

import jax
import jax.numpy as jnp

from s2mlp_jax.models.backbone import Backbone
from s2mlp_jax.models.cost import count_macs, count_parameters
from s2mlp_jax.models.resnet import ResNet
from s2mlp_jax.models.spatial_shift import BORDERS, DIRECTIONS, PATTERNS, spatial_shift
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import get_variant, list_models

__all__ = [
    "BORDERS",
    "DIRECTIONS",
    "PATTERNS",
    "Backbone",
    "Model",
    "ResNet",
    "Variant",
    "build",
    "count_macs",
    "count_parameters",
    "create_model",
    "init",
    "list_models",
    "spatial_shift",
]


Model = Backbone | ResNet


def build(
    variant: Variant, num_classes: int, dtype: typing.Any = jnp.float32, remat: bool = False
) -> Model:
    """Makes the model of a variant; `remat` is as in `Backbone`."""
    skeleton = ResNet if variant.skeleton == "resnet" else Backbone
    return skeleton(variant, num_classes, dtype, remat)


def create_model(
    name: str,
    num_classes: int = 1000,
    dtype: typing.Any = jnp.float32,
    **overrides: typing.Any,
) -> Model:
    """Makes a model by name.

    Args:
      name: one of `list_models()`.
      num_classes: outputs of the head.
      dtype: compute dtype, e.g. `jnp.bfloat16`; parameters stay float32.
      **overrides: fields of `Variant`, e.g. `depth=6, shift="e"`.

    Raises:
      ValueError: unknown name or field, or a value that is not allowed.
    """
    return build(get_variant(name, **overrides), num_classes, dtype)


def init(model: Model, key: jax.Array, image_size: int = 224, channels: int = 3) -> typing.Any:
    """Draws a model's variables, `{"params": ...}`, in float32.

    A ResNet has its batch norms' running statistics beside them, `"batch_stats"`.

    Args:
      model: from `create_model`.
      key: `jax.random.key(seed)`.
      image_size: pixels, of square images. The weights of MLP-Mixer, ResMLP, ViP and DeiT are
        then for this size only; those of the others fit any.
      channels: of the images, 1 or 3 usually.

    Raises:
      ValueError: if the patch does not divide the image size.
    """
    # Only the weights are computed, not the layers' outputs, and without jit: compiling the draws
    # of 36 blocks takes three times as long as drawing them.
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    return model.lazy_init(key, images, train=False)
