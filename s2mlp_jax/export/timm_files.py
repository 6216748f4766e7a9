"""Converts weights files from and to timm."""

import typing

from s2mlp_jax.export.torch_weights import from_torch, to_torch
from s2mlp_jax.models import get_variant
from s2mlp_jax.saved.pretrained import read_any
from s2mlp_jax.saved.weights_file import (
    Weights,
    check_ending,
    read_state_dict,
    write_state_dict,
    write_weights,
)


def import_weights(
    source: str, name: str, output: str, num_classes: int, image_size: int, **fields: typing.Any
) -> Weights:
    """Converts a state dict to our weights file.

    Args:
      source: file of the state dict.
      name: one of `list_models()`.
      output: file to write, NAME.safetensors.
      num_classes: number of outputs of the head.
      image_size: side in pixels of the square images that the weights are for.
      **fields: fields of the variant that differ from those of `name`.

    Raises:
      ValueError: timm does not have the model, the weights are of another model, or a file is
        invalid.
    """
    check_ending(output, (".safetensors",))
    variant = get_variant(name, **fields)
    state_dict = read_state_dict(source)
    try:
        variables = from_torch(variant, state_dict, num_classes, image_size)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    weights = Weights(variables, name, num_classes, image_size, variant.fields())
    write_weights(output, weights)
    return weights


def export_weights(
    source: str, output: str, checkpoint: str = "", which: str = "average"
) -> dict[str, typing.Any]:
    """Converts our weights file, or the weights of a folder, to a state dict.

    Args:
      source: file that `import_weights` wrote, or folder of a model or a run.
      output: file to write.
      checkpoint: checkpoint of a run: "latest" (also ""), "best", or a step.
      which: weights of a run, "average" or "last".

    Returns:
      The state dict.

    Raises:
      ValueError: timm does not have the model, or there is no such file, run or checkpoint.
    """
    check_ending(output)
    weights = read_any(source, checkpoint, which)
    state_dict = to_torch(weights.variant, weights.variables)
    write_state_dict(output, state_dict)
    return state_dict
