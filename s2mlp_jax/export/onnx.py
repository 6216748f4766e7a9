"""A model in ONNX, for ONNX Runtime and what else reads it, by jax2onnx.

  session = onnxruntime.InferenceSession("model.onnx")
  (logits,) = session.run(["logits"], {"images": images})

Images are (b, h, w, c), float32, normalised, of any number b; logits (b, classes).
"""

import contextlib
import logging
import pathlib
import typing
from collections.abc import Iterator

import jax
import numpy as np

from s2mlp_jax.export.common import classifier, require
from s2mlp_jax.models import Model

NEEDS: tuple[str, ...] = ("jax2onnx", "onnx", "onnxruntime")
FILE = "model.onnx"
OPSET = 21  # the first with the group norm that AS-MLP needs; the newer, the fewer can read it
_TOLERANCE = 1e-4  # of logits, or of the largest one


def write(
    folder: pathlib.Path, model: Model, variables: typing.Any, image_size: int, channels: int
) -> None:
    """Writes model.onnx, checked by onnx.checker, and against the model on two random images.

    Args:
      folder: exists.
      model: of any family; what is written computes in float32.
      variables: `{"params": ...}`, of numpy or jax arrays; a ResNet's "batch_stats" too.
      image_size: pixels, of square images.
      channels: of the images.

    Raises:
      ValueError: a package is missing, or jax2onnx cannot convert what the model computes.
    """
    jax2onnx, onnx = require("jax2onnx", FILE), require("onnx", FILE)
    classify = classifier(model, variables)

    def classify_for_jax2onnx(images: jax.Array) -> jax.Array:
        # Without jit inside of it: how jax 0.12 writes that down jax2onnx 0.13 cannot read.
        with jax.disable_jit():
            return classify(images)

    shape = (image_size, image_size, channels)
    with _quiet():
        try:
            converted = jax2onnx.to_onnx(
                classify_for_jax2onnx,
                [("b", *shape)],
                model_name="s2mlp_jax",
                opset=OPSET,
                input_names=["images"],
                output_names=["logits"],
            )
        except ValueError:
            raise
        except Exception as error:  # NotImplementedError names a primitive; others are its bugs
            raise _unable(error) from error
    # Shapes inside, which are not needed, and which jax2onnx has wrong for empty arrays.
    del converted.graph.value_info[:]
    onnx.checker.check_model(converted, full_check=True)
    content = converted.SerializeToString()
    images = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    _compare(content, images, np.asarray(jax.jit(classify)(images)))
    (folder / FILE).write_bytes(content)


def run(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Maps normalised images (b, h, w, c), float32, to logits (b, classes) by the file alone.

    Raises:
      ValueError: ONNX Runtime is not installed.
    """
    return _run((folder / FILE).read_bytes(), images)


def _run(content: bytes, images: np.ndarray) -> np.ndarray:
    onnxruntime = require("onnxruntime", FILE)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it warns of constants that are not used; errors are raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"images": images})[0])


def _compare(content: bytes, images: np.ndarray, expected: np.ndarray) -> None:
    """Raises a ValueError if the file's logits are not the expected ones."""
    try:
        difference = np.abs(_run(content, images) - expected).max()
    except ValueError:
        raise
    except Exception as error:  # onnxruntime has its own, one a kind of failure
        raise _unable(error) from error
    if not difference <= _TOLERANCE * max(1.0, np.abs(expected).max()):
        raise _unable(f"jax2onnx makes another function of it, with logits {difference:.1e} off.")


def _unable(reason: object) -> ValueError:
    first = str(reason).splitlines()[0]
    return ValueError(f"This model cannot be written as {FILE}: {first}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what jax2onnx logs: of plugins for other libraries, and shapes that it leaves open."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
