"""Loads a trained model from a run or from a folder that `s2mlp_jax.export` wrote."""

import pathlib
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.data.on_device import normalize
from s2mlp_jax.models import Model, build, init
from s2mlp_jax.options import DTYPES
from s2mlp_jax.saved.arrays import check_arrays, flatten, leaf_name
from s2mlp_jax.saved.files import Folder
from s2mlp_jax.saved.from_run import describe_run, read_run
from s2mlp_jax.saved.model_folder import ModelFolder, read_description, read_model_folder
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.weights_file import Weights, read_weights

WHICH: tuple[str, ...] = ("average", "last")


class Pretrained(typing.NamedTuple):
    """A model that is ready to use.

    Attributes:
      variables: for `model.apply(variables, images, train=False)`.
      preprocess: turns an image, or the file of one, into the model's input.
      class_names: one name per output.
    """

    model: Model
    variables: typing.Any
    preprocess: Preprocessing
    class_names: tuple[str, ...]


def load(
    path: str | pathlib.Path,
    image_size: int | None = None,
    checkpoint: str = "",
    weights: str = "average",
    dtype: typing.Any = None,
) -> Pretrained:
    """Loads a model.

    Args:
      path: folder that `python -m s2mlp_jax.export` wrote, or folder of a run of main.py.
      image_size: image size in pixels, for models that accept any; default: the training size.
      checkpoint: checkpoint of a run: "latest" (also ""), "best", or a step.
      weights: weights of a run: "average" (the last weights if no average was kept) or "last".
      dtype: dtype of the computation, such as `jnp.float32`; default: the dtype of its training
        and evaluation. The weights are float32.

    Raises:
      ValueError: the folder has no model, the checkpoint does not exist, the files do not fit each
        other (lists all wrong arrays), or the weights do not fit the image size.
    """
    content = read(path, checkpoint, weights, image_size)
    stored, preprocessing = content.weights, content.preprocessing
    dtype = DTYPES[content.dtype] if dtype is None else dtype
    model = build(stored.variant, stored.num_classes, dtype)
    check_fit(stored, preprocessing.channels, path)
    return Pretrained(model, stored.variables, preprocessing, content.class_names)


def compiled(
    pretrained: Pretrained, output: typing.Literal["logits", "pooled"] = "logits"
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the jitted function from pixels, (b, h, w, c) uint8, to the output, (b, ...).

    Args:
      output: argument of `model.apply`.
    """
    model, variables, preprocess, _ = pretrained
    variables = jax.device_put(variables)

    @jax.jit
    def apply(variables: typing.Any, pixels: jax.Array) -> jax.Array:
        images = normalize(pixels, preprocess.mean, preprocess.std)
        return jnp.asarray(model.apply(variables, images, train=False, output=output))

    return lambda pixels: np.asarray(apply(variables, pixels))


def read(
    path: str | pathlib.Path,
    checkpoint: str = "",
    weights: str = "average",
    image_size: int | None = None,
) -> ModelFolder:
    """Reads what `load` reads, without building the model."""
    content = _read(path, checkpoint, weights)
    if image_size is None:
        return content
    content.weights.variant.check_other_size(content.weights.image_size, image_size)
    return content._replace(preprocessing=content.preprocessing.at(image_size))


def _read(path: str | pathlib.Path, checkpoint: str, weights: str) -> ModelFolder:
    if weights not in WHICH:
        raise ValueError(f"Unknown weights {weights!r}. Allowed are {', '.join(WHICH)}.")
    if _is_model_folder(path):
        if checkpoint or weights != WHICH[0]:
            raise ValueError(f"{path} holds one set of weights; it is runs that have several.")
        return read_model_folder(path)
    return read_run(pathlib.Path(path), checkpoint or "latest", weights == "last")


def _is_model_folder(path: str | pathlib.Path) -> bool:
    """Returns True for an exported model, False for a run; else raises a ValueError."""
    return Folder(pathlib.Path(path)).check_kind("run", "exported model") == "exported model"


def describe(path: str | pathlib.Path) -> tuple[str, dict[str, typing.Any], Preprocessing]:
    """Returns a model's name, fields and preprocessing, without reading its weights.

    Raises:
      ValueError: the folder has no model.
    """
    if _is_model_folder(path):
        return read_description(path)
    return describe_run(pathlib.Path(path))


def read_any(path: str | pathlib.Path, checkpoint: str = "", weights: str = "average") -> Weights:
    """Reads weights from a folder, as `read` does, or from a file NAME.safetensors.

    Raises:
      ValueError: as in `load`, but it is not checked that the weights fit their model.
    """
    if pathlib.Path(path).is_dir():
        return read(path, checkpoint, weights).weights
    if checkpoint or weights != WHICH[0]:
        raise ValueError(
            f"--checkpoint and --weights choose weights of a run, and {path} is not a run's folder."
        )
    return read_weights(path)


def check_fit(stored: Weights, channels: int, path: str | pathlib.Path = "") -> None:
    """Checks that weights fit their model.

    Args:
      path: where they are from, for the message.

    Raises:
      ValueError: lists all missing names, unexpected names and wrong shapes.
    """
    arrays, variant = flatten(stored.variables), stored.variant
    where = f"{path}: " if path else ""
    # Before many blocks are built, for minutes. A block has four arrays at least.
    if 4 * (blocks := sum(variant.depths)) > len(arrays):
        raise ValueError(
            f"{where}the model has {blocks} blocks, and its file {len(arrays)} arrays."
        )
    model = build(variant, stored.num_classes)
    shapes = jax.eval_shape(
        lambda key: init(model, key, stored.image_size, channels), jax.random.key(0)
    )
    expected = {leaf_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes)}
    try:
        check_arrays(expected, arrays)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
