"""Exports a model as one StableHLO function, which needs only jax to run.

  model = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
  logits = model.call(images)  # (b, h, w, c), float32, normalised -> (b, classes), any b

The weights are constants in the function, which runs on CPUs, NVIDIA GPUs and TPUs. jax promises
that versions released up to six months after the one that wrote a file can read it, and from 0.11.1
on refuses older files.
"""

import datetime
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
      folder: existing folder.
      model: model of any family; exported in float32.
      variables: `{"params": ...}` of numpy or jax arrays; for a ResNet also "batch_stats".
      image_size: side of the square images in pixels.
      channels: number of image channels.
    """
    classify = classifier(model, variables)
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, channels), jnp.float32)
    exported = jax.export.export(jax.jit(classify), platforms=PLATFORMS)(images)
    (folder / FILE).write_bytes(exported.serialize())


def expiry(written: datetime.date) -> str:
    """Returns the sentences that say which versions of jax read a file that is written now.

    An installed jax does not know when it was released, so the last day is counted from `written`.
    """
    last = written + datetime.timedelta(weeks=26)
    return (
        f"The file was written by jax {jax.__version__} on {written}. It is read by versions of "
        "jax that are released up to six months after the version that wrote it, which is no later "
        f"than {last}. Newer versions refuse it: export the model again."
    )


def run(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Maps normalised images (b, h, w, c), float32, to logits (b, classes) using only the file."""
    exported = jax.export.deserialize(bytearray((folder / FILE).read_bytes()))
    return np.asarray(exported.call(images))
