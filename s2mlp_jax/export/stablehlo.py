"""A model as one StableHLO function, which jax alone runs.

  model = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
  logits = model.call(images)  # (b, h, w, c), float32, normalised -> (b, classes), any b

The weights are constants in it, and it is for CPUs, NVIDIA GPUs and TPUs. jax promises to read such
a file for six months of its own versions after the one that wrote it.
"""

import pathlib
import typing

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.export.common import classifier
from s2mlp_jax.models import Model

NEEDS: tuple[str, ...] = ()
FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    folder: pathlib.Path, model: Model, variables: typing.Any, image_size: int, channels: int
) -> None:
    """Writes model.stablehlo.

    Args:
      folder: exists.
      model: of any family; what is written computes in float32.
      variables: `{"params": ...}`, of numpy or jax arrays; a ResNet's "batch_stats" too.
      image_size: pixels, of square images.
      channels: of the images.
    """
    classify = classifier(model, variables)
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, channels), jnp.float32)
    exported = jax.export.export(jax.jit(classify), platforms=PLATFORMS)(images)
    (folder / FILE).write_bytes(exported.serialize())


def run(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Maps normalised images (b, h, w, c), float32, to logits (b, classes) by the file alone."""
    exported = jax.export.deserialize(bytearray((folder / FILE).read_bytes()))
    return np.asarray(exported.call(images))
