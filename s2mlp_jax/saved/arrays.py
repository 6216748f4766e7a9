"""Names of a model's arrays, for files, patterns and messages; checks of names and shapes."""

import types
import typing
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util


class Free(typing.NamedTuple):
    """An array dimension that the variant leaves open: factor * (value of `name`) + offset."""

    name: str
    factor: int = 1
    offset: int = 0


Shape = tuple[int | Free, ...]


def leaf_name(path: tuple[typing.Any, ...]) -> str:
    """Returns a name, "block_00/mlp/fc_in/kernel", for a path of `jax.tree.leaves_with_path`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Mapping[str, typing.Any]) -> dict[str, np.ndarray]:
    """Maps {"params": {"head": {"bias": x}}} to {"params/head/bias": x}."""
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    return {name: np.asarray(value) for name, value in flat.items()}


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, typing.Any]:
    """Maps {"params/head/bias": x} to {"params": {"head": {"bias": x}}}."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def check_arrays(
    expected: Mapping[str, Shape],
    arrays: Mapping[str, np.ndarray],
    given: Mapping[str, int] = types.MappingProxyType({}),
) -> None:
    """Checks the names and shapes of arrays.

    Args:
      given: values of open dimensions; the others are taken from the first array that has them.

    Raises:
      ValueError: lists all wrong names and shapes.
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
    """Returns a shape as numbers, with None for each unknown dimension."""
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
