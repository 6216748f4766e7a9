"""Names of a model's arrays, as patterns, files and messages have them."""

import typing


def leaf_name(path: tuple[typing.Any, ...]) -> str:
    """Returns "block_00/mlp/fc_in/kernel" of a path of `jax.tree.leaves_with_path`."""
    return "/".join(str(part.key) for part in path)
