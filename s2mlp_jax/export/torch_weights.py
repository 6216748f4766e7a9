"""Weights from and to PyTorch's models of timm, in numpy: no PyTorch, and no jax, is needed.

What is renamed is in `torch_tables`, what is turned over in `torch_layouts`. Weights alone are
mapped: that timm's model has the same epsilon in its norms, and as many heads, is up to who makes
it.
"""

import typing
from collections.abc import Mapping

import numpy as np

from s2mlp_jax.export.torch_tables import IGNORED, table
from s2mlp_jax.saved.arrays import check_arrays, flatten, unflatten

if typing.TYPE_CHECKING:
    from s2mlp_jax.models.variant import Variant


def from_torch(
    variant: "Variant",
    state_dict: Mapping[str, np.ndarray],
    num_classes: int | None = None,
    image_size: int | None = None,
) -> dict[str, typing.Any]:
    """Makes our variables of a state dict.

    Args:
      variant: MLP-Mixer, ResMLP, DeiT or ResNet.
      state_dict: timm's names -> arrays of any float type.
      num_classes: what the head must have; as many as it has by default.
      image_size: pixels, what the weights must be for; any by default.

    Returns:
      `{"params": ...}`, nested, float32: what `model.apply` takes. A ResNet's running statistics
      are its "batch_stats".

    Raises:
      ValueError: a variant that timm has not; or names that are missing, names that are not
        expected, and shapes that do not fit, all of them in one message.
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
    return unflatten(
        {
            entry.ours: np.ascontiguousarray(entry.from_torch(arrays[entry.torch]), np.float32)
            for entry in entries
        }
    )


def to_torch(variant: "Variant", variables: Mapping[str, typing.Any]) -> dict[str, np.ndarray]:
    """Makes a state dict of our variables.

    Args:
      variant: MLP-Mixer, ResMLP, DeiT or ResNet.
      variables: `{"params": ...}`, nested, of numpy or jax arrays.

    Returns:
      timm's names -> float32 arrays, for `load_state_dict`.

    Raises:
      ValueError: as `from_torch`.
    """
    entries = table(variant)
    arrays = flatten(variables)
    check_arrays({entry.ours: entry.our_shape for entry in entries}, arrays)
    return {
        entry.torch: np.ascontiguousarray(entry.to_torch(arrays[entry.ours]), np.float32)
        for entry in entries
    }


def _given(variant: "Variant", num_classes: int | None, image_size: int | None) -> dict[str, int]:
    """Returns what is known of the sizes that a variant leaves open."""
    given = {}
    if num_classes is not None:
        given["classes"] = num_classes
    if image_size is not None:
        given["tokens"] = variant.grids(image_size)[0] ** 2
    return given
