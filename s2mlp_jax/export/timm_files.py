"""Files of timm's weights: taken over, and given back."""

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
    """Writes our file of weights, made of a state dict.

    Args:
      source: file of the state dict.
      name: one of `list_models()`.
      output: file to write, NAME.safetensors.
      num_classes: of the head.
      image_size: pixels that the weights are for, of square images.
      **fields: of the variant, where they differ from those of the name.

    Raises:
      ValueError: a model that timm has not, weights of another one, or a file that is none.
    """
    check_ending(output, (".safetensors",))
    variant = get_variant(name, **fields)
    variables = from_torch(variant, read_state_dict(source), num_classes, image_size)
    weights = Weights(variables, name, num_classes, image_size, variant.fields())
    write_weights(output, weights)
    return weights


def export_weights(
    source: str, output: str, checkpoint: str = "", which: str = "average"
) -> dict[str, typing.Any]:
    """Writes a state dict, made of our file of weights or of a run.

    Args:
      source: a file that `import_weights` wrote, a model's folder, or that of a run.
      output: file to write.
      checkpoint: of a run: "latest", which "" is too, "best", or a step.
      which: of a run's weights, "average" or "last".

    Returns:
      The state dict.

    Raises:
      ValueError: a model that timm has not, no such file, run or checkpoint.
    """
    check_ending(output)
    weights = read_any(source, checkpoint, which)
    state_dict = to_torch(weights.variant, weights.variables)
    write_state_dict(output, state_dict)
    return state_dict
