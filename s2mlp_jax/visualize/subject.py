"""What is looked into: a model with weights, just drawn or of a run's checkpoint."""

import pathlib
import typing

import jax

from s2mlp_jax.models import Model, init
from s2mlp_jax.models.backbone import Block
from s2mlp_jax.models.mixers import SpatialShift
from s2mlp_jax.models.resnet import Bottleneck
from s2mlp_jax.rng import stream_key
from s2mlp_jax.train.restore import Restored
from s2mlp_jax.visualize.canvas import pattern_name


class Subject(typing.NamedTuple):
    """A model with weights.

    Attributes:
      variables: on the host, numpy.
      channels: of its images.
      name: in plain words, for a title.
    """

    model: Model
    variables: typing.Any
    channels: int
    name: str

    def mixer(self) -> str:
        """Returns "shift (a), border keep", or the name of another mixer."""
        variant = self.model.variant
        mixer = variant.mixer_as(SpatialShift)
        if mixer is None:
            return f"token mixer {variant.mixer}" if variant.skeleton == "metaformer" else "ResNet"
        part = "" if mixer.shift_fraction == 1.0 else f" of {mixer.shift_fraction:.0%} of channels"
        return f"shift {pattern_name(mixer.shift)}{part}, border {mixer.border}"


def fresh(name: str, model: Model, image_size: int, channels: int, seed: int) -> Subject:
    """Draws the weights that a run of a model starts from.

    Args:
      image_size: pixels.
      seed: of the weights.

    Raises:
      ValueError: if the patch does not divide the image.
    """
    key = stream_key(jax.random.key(seed), "params")
    variables = init(model, key, image_size, channels)
    return Subject(model, jax.device_get(variables), channels, f"{name}, not trained")


def of_run(workdir: str | pathlib.Path, restored: Restored) -> Subject:
    """Takes the weights that a restored run is judged by."""
    run, averaged = restored.run, restored.state.ema_params is not None
    folder = pathlib.Path(workdir).absolute()
    # In a sweep the folder is named by the seed, in that of its setting.
    title = f"{folder.parent.name}/{folder.name}" if folder.name.isdigit() else folder.name
    name = f"{title}, step {restored.step:,}"
    return Subject(
        run.model,
        jax.device_get(restored.variables),
        run.eval_split.channels,
        name + (", averaged weights" if averaged else ""),
    )


def block_outputs(
    model: Model, variables: typing.Any, images: jax.Array
) -> tuple[jax.Array, list[jax.Array]]:
    """Returns what a model says of images, and what each of its blocks puts out.

    Args:
      images: (b, height, width, channels), normalised.

    Returns:
      Logits (b, classes), and for each block, in order, tokens (b, h, w, c), without a class
      token.
    """
    logits, captured = model.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, method: isinstance(module, Block | Bottleneck),
    )
    blocks = captured["intermediates"]
    outputs = [blocks[name]["__call__"][0] for name in sorted(blocks, key=_order)]
    if model.variant.pool == "class_token":  # then tokens are a row, that one first
        height, width = (side // model.variant.patch_size for side in images.shape[1:3])
        outputs = [x[:, 0, 1:].reshape(x.shape[0], height, width, -1) for x in outputs]
    return logits, outputs


def _order(name: str) -> int:
    """The number of a block by its name, "block_07"."""
    return int(name.rpartition("_")[2])
