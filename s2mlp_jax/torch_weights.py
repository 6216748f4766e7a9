"""Weights from and to PyTorch's models of timm, in numpy: no PyTorch, and no jax, is needed.

What is renamed is in `torch_tables`, what is turned over in `torch_layouts`. Weights alone are
mapped: that timm's model has the same epsilon in its norms, and as many heads, is up to who makes
it.
"""

import types
import typing
from collections.abc import Mapping, Sequence

import numpy as np

from s2mlp_jax.torch_layouts import Free, Shape
from s2mlp_jax.torch_tables import IGNORED, table

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


def flatten(tree: Mapping[str, typing.Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Maps {"params": {"head": {"bias": x}}} to {"params/head/bias": x}."""
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[prefix + key] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, typing.Any]:
    """Maps {"params/head/bias": x} to {"params": {"head": {"bias": x}}}."""
    tree: dict[str, typing.Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def _given(variant: "Variant", num_classes: int | None, image_size: int | None) -> dict[str, int]:
    """Returns what is known of the sizes that a variant leaves open."""
    given = {}
    if num_classes is not None:
        given["classes"] = num_classes
    if image_size is not None:
        given["tokens"] = variant.grids(image_size)[0] ** 2
    return given


def check_arrays(
    expected: Mapping[str, Shape],
    arrays: Mapping[str, np.ndarray],
    given: Mapping[str, int] = types.MappingProxyType({}),
) -> None:
    """Raises one ValueError with all that is wrong of names and shapes.

    Args:
      given: of the sides that are open; those that are not are what the first array says.
    """
    known = dict(given)
    for name, shape in expected.items():
        found = arrays[name].shape if name in arrays else ()
        if len(found) != len(shape):
            continue
        for side, length in zip(shape, found, strict=True):
            if isinstance(side, Free):
                value, rest = divmod(length - side.offset, side.factor)
                if not rest:
                    known.setdefault(side.name, value)
    missing = [name for name in expected if name not in arrays]
    unexpected = [name for name in arrays if name not in expected]
    misfits = [
        f"{name}: {_text(arrays[name].shape, known)} there, {_text(shape, known)} expected"
        for name, shape in expected.items()
        if name in arrays and _solve(shape, known) != arrays[name].shape
    ]
    problems = []
    for what, names in (("missing", missing), ("not expected", unexpected), ("misfits", misfits)):
        if names:
            problems.append(f"{len(names)} {what}:\n  " + "\n  ".join(names))
    if problems:
        raise ValueError("The weights are not those of the model.\n" + "\n".join(problems))


def _solve(shape: Sequence[int | Free], known: Mapping[str, int]) -> tuple[int | None, ...]:
    """Returns a shape in numbers, None for a side that is not known."""
    return tuple(
        (side.factor * known[side.name] + side.offset if side.name in known else None)
        if isinstance(side, Free)
        else side
        for side in shape
    )


def _text(shape: Sequence[int | Free], known: Mapping[str, int]) -> str:
    solved = zip(shape, _solve(shape, known), strict=True)
    sides = [side.name if isinstance(side, Free) and x is None else str(x) for side, x in solved]
    return "x".join(sides) or "a number"
