"""Exports a model to ONNX with jax2onnx, for ONNX Runtime and other programs.

  session = onnxruntime.InferenceSession("model.onnx")
  (logits,) = session.run(["logits"], {"images": images})

Images are (b, h, w, c), float32, normalised, with any batch size b; logits are (b, classes).
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
OPSET = 21  # the first with AS-MLP's group norm; fewer programs read newer ones
_TOLERANCE = 1e-4  # absolute, or relative to the largest logit if above 1


def write(
    folder: pathlib.Path, model: Model, variables: typing.Any, image_size: int, channels: int
) -> None:
    """Writes model.onnx; checks it with onnx.checker and against the model on two random images.

    Args:
      folder: existing folder.
      model: model of any family; exported in float32.
      variables: `{"params": ...}` of numpy or jax arrays; for a ResNet also "batch_stats".
      image_size: side of the square images in pixels.
      channels: number of image channels.

    Raises:
      ValueError: a package is missing, or jax2onnx cannot convert what the model computes.
    """
    jax2onnx, onnx = require("jax2onnx", FILE), require("onnx", FILE)
    classify = classifier(model, variables)

    def classify_for_jax2onnx(images: jax.Array) -> jax.Array:
        # Without inner jit: jax2onnx 0.13 cannot read how jax 0.12 represents it.
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
        except Exception as error:  # NotImplementedError names a primitive; others are bugs
            raise _unable(error) from error
    # Drop inner shapes: they are not needed, and jax2onnx gets those of empty arrays wrong.
    del converted.graph.value_info[:]
    onnx.checker.check_model(converted, full_check=True)
    content = converted.SerializeToString()
    images = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    _compare(content, images, np.asarray(jax.jit(classify)(images)))
    (folder / FILE).write_bytes(content)


def run(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Maps normalised images (b, h, w, c), float32, to logits (b, classes) using only the file.

    Raises:
      ValueError: ONNX Runtime is not installed.
    """
    return _run((folder / FILE).read_bytes(), images)


def _run(content: bytes, images: np.ndarray) -> np.ndarray:
    onnxruntime = require("onnxruntime", FILE)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # hides warnings of unused constants; errors are raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"images": images})[0])


def _compare(content: bytes, images: np.ndarray, expected: np.ndarray) -> None:
    """Raises a ValueError if the file's logits are not the expected ones."""
    try:
        difference = np.abs(_run(content, images) - expected).max()
    except ValueError:
        raise
    except Exception as error:  # onnxruntime has one type per kind of failure
        raise _unable(error) from error
    if not difference <= _TOLERANCE * max(1.0, np.abs(expected).max()):
        raise _unable(f"jax2onnx makes another function of it, with logits {difference:.1e} off.")


def _unable(reason: object) -> ValueError:
    first = str(reason).splitlines()[0]
    return ValueError(f"This model cannot be written as {FILE}: {first}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides jax2onnx's log messages on plugins for other libraries and on unknown shapes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
