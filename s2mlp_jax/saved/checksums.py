"""Checksums of arrays, which show whether what was read is what was saved.

The checksum of an array is the sum over its elements, modulo 2^32, of a hash of the element's bits
and its position. A sum does not depend on how the array is sharded: each device adds up its own
part, and no array is copied to the host. A change of one element always changes the sum; any other
damage does with a probability of 1 - 2^-32.
"""

import functools
import math
import typing
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from s2mlp_jax.saved.arrays import leaf_name
from s2mlp_jax.saved.disk_faults import DamagedError


def checksums(tree: typing.Any) -> dict[str, str]:
    """Returns the checksum of every array of a tree, as eight hexadecimal digits, by its name.

    All processes must call it for the same tree.
    """
    leaves = jax.tree.leaves_with_path(tree)
    parts = jax.device_get([[*_parts(leaf)] for _, leaf in leaves])
    sums = np.array([sum(map(int, some)) % 2**32 for some in parts], np.uint32)
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(sums).sum(0, dtype=np.uint32)
    return {leaf_name(path): f"{x:08x}" for (path, _), x in zip(leaves, sums, strict=True)}


def check(tree: typing.Any, recorded: Mapping[str, typing.Any], partial: bool = False) -> None:
    """Compares the arrays of a tree with recorded checksums.

    Args:
      partial: whether the tree may lack arrays that were recorded.

    Raises:
      DamagedError: names the arrays that differ.
    """
    found = checksums(tree)
    names = sorted(found if partial else found.keys() | recorded.keys())
    if wrong := [name for name in names if recorded.get(name) != found.get(name)]:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DamagedError(f"{', '.join(wrong[:3])}{more} differ from what was saved")


def _parts(x: jax.Array | np.ndarray) -> Iterator[jax.Array]:
    """Yields the sums over the parts of an array on this process's devices; no part twice."""
    if not isinstance(x, jax.Array):
        # As bits, because jax would cut numbers of 64 bits; these are two of 32 here.
        x = np.atleast_1d(np.ascontiguousarray(x)).view(f"uint{min(8 * x.dtype.itemsize, 32)}")
    steps = tuple(math.prod(x.shape[axis + 1 :]) % 2**32 for axis in range(x.ndim))
    if not isinstance(x, jax.Array):
        if jax.process_index() == 0:
            yield _sum(x, steps, np.uint32(0))
    elif len(x.sharding.device_set) == 1:
        yield _sum(x, steps, np.uint32(0))
    else:
        for shard in x.addressable_shards:
            if shard.replica_id == 0:
                begins = [part.start or 0 for part in shard.index]
                first = sum(begin * step for begin, step in zip(begins, steps, strict=True))
                yield _sum(shard.data, steps, np.uint32(first % 2**32))


@functools.partial(jax.jit, static_argnums=1)
def _sum(x: jax.Array, steps: tuple[int, ...], first: jax.Array) -> jax.Array:
    """Returns the sum of the hashes of a part that begins at position `first` of its array.

    Args:
      steps: for each axis, the distance of neighbours in the whole array.
    """
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    bits = lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    position = jnp.full(x.shape, first)
    for axis, step in enumerate(steps):
        position += lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(step)
    # The finalizer of MurmurHash3, one-to-one on 32 bits.
    value = bits + position * jnp.uint32(0x9E3779B9)
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return (value ^ (value >> 16)).sum(dtype=jnp.uint32)
