"""Converts weights from and to timm's PyTorch models in numpy; needs neither PyTorch nor jax.

Names are mapped in `torch_tables`, and layouts in `torch_layouts`. Only weights are converted: the
caller must create timm's model with the same epsilon in its norms and the same number of heads.
"""

import typing
from collections.abc import Mapping

import numpy as np

from s2mlp_jax.export.torch_tables import IGNORED, table
from s2mlp_jax.saved.arrays import check_arrays, flatten, unflatten
from s2mlp_jax.saved.untrusted import check_values

if typing.TYPE_CHECKING:
    from s2mlp_jax.models.variant import Variant


def from_torch(
    variant: "Variant",
    state_dict: Mapping[str, np.ndarray],
    num_classes: int | None = None,
    image_size: int | None = None,
) -> dict[str, typing.Any]:
    """Converts a state dict to our variables.

    Args:
      variant: MLP-Mixer, ResMLP, DeiT or ResNet.
      state_dict: timm's names -> arrays of any float type.
      num_classes: required number of outputs of the head; default: any.
      image_size: required image size of the weights, in pixels; default: any.

    Returns:
      `{"params": ...}`, nested float32 arrays for `model.apply`; for a ResNet also "batch_stats",
      its running statistics.

    Raises:
      ValueError: timm does not have the variant, or weights do not fit; one message lists all
        missing names, unexpected names and wrong shapes. Or they are NaN, infinite or integers.
    """
    entries = table(variant)
    arrays = {
        name: np.asarray(x) for name, x in state_dict.items() if not name.endswith(tuple(IGNORED))
    }
    check_arrays(
        {entry.torch: entry.torch_shape for entry in entries},
        arrays,
        _given(variant, num_classes, image_size),
    )
    check_values({entry.torch: arrays[entry.torch] for entry in entries}, "The state dict")
    return unflatten(
        {
            entry.ours: np.ascontiguousarray(entry.from_torch(arrays[entry.torch]), np.float32)
            for entry in entries
        }
    )


def to_torch(variant: "Variant", variables: Mapping[str, typing.Any]) -> dict[str, np.ndarray]:
    """Converts our variables to a state dict.

    Args:
      variant: MLP-Mixer, ResMLP, DeiT or ResNet.
      variables: `{"params": ...}`, nested numpy or jax arrays.

    Returns:
      timm's names -> float32 arrays, for `load_state_dict`.

    Raises:
      ValueError: as in `from_torch`.
    """
    entries = table(variant)
    arrays = flatten(variables)
    check_arrays({entry.ours: entry.our_shape for entry in entries}, arrays)
    return {
        entry.torch: np.ascontiguousarray(entry.to_torch(arrays[entry.ours]), np.float32)
        for entry in entries
    }


def _given(variant: "Variant", num_classes: int | None, image_size: int | None) -> dict[str, int]:
    """Returns the known sizes among those that a variant leaves open."""
    given = {}
    if num_classes is not None:
        given["classes"] = num_classes
    if image_size is not None:
        given["tokens"] = variant.grids(image_size)[0] ** 2
    return given
