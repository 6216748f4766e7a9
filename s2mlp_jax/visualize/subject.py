"""The model of a picture, with initial weights or those of a run's checkpoint."""

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
      variables: numpy arrays on the host.
      channels: number of image channels.
      name: description for the title of a picture.
    """

    model: Model
    variables: typing.Any
    channels: int
    name: str

    def mixer(self) -> str:
        """Returns a text such as "shift (a), border keep", or the name of another mixer."""
        variant = self.model.variant
        mixer = variant.mixer_as(SpatialShift)
        if mixer is None:
            return f"token mixer {variant.mixer}" if variant.skeleton == "metaformer" else "ResNet"
        part = "" if mixer.shift_fraction == 1.0 else f" of {mixer.shift_fraction:.0%} of channels"
        return f"shift {pattern_name(mixer.shift)}{part}, border {mixer.border}"


def fresh(name: str, model: Model, image_size: int, channels: int, seed: int) -> Subject:
    """Returns a model with the initial weights of a run.

    Args:
      image_size: height and width in pixels.
      seed: seed of the weights.

    Raises:
      ValueError: if the image size is not a multiple of the model's stride.
    """
    key = stream_key(jax.random.key(seed), "params")
    variables = init(model, key, image_size, channels)
    return Subject(model, jax.device_get(variables), channels, f"{name}, not trained")


def of_run(workdir: str | pathlib.Path, restored: Restored) -> Subject:
    """Returns the model of a restored run, with averaged weights if the run has them."""
    run, averaged = restored.run, restored.state.ema_params is not None
    folder = pathlib.Path(workdir).absolute()
    # In a sweep, the folder of a run is SETTING/SEED.
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
    """Returns the logits of a model and the output of each block.

    Args:
      images: (b, height, width, channels), normalised.

    Returns:
      Logits (b, classes), and for each block, in order, tokens (b, h, w, c) without the class
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
    if model.variant.pool == "class_token":  # then (b, 1, 1 + h * w, c), first the class token
        height, width = (side // model.variant.patch_size for side in images.shape[1:3])
        outputs = [x[:, 0, 1:].reshape(x.shape[0], height, width, -1) for x in outputs]
    return logits, outputs


def _order(name: str) -> int:
    """Returns the number of a block from a name such as "block_07"."""
    return int(name.rpartition("_")[2])
