"""A control without parameters: PoolFormer's average pooling (arXiv 2111.11418, Algorithm 1)."""

import jax
import jax.numpy as jnp

from s2mlp_jax.models.layer_cost import Cost
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.precision import accumulator, in_float32


@register("pool")
class Pool(TokenMixer):
    """The average over the 3x3 tokens around a token, less the token itself.

    At the border the average is over the tokens that are inside the grid.
    """

    relations = {"average pooling 3x3 (PoolFormer)": {}}

    def cost(self, dim: int, tokens: int) -> Cost:
        """Costs no parameters and no multiply-accumulates."""
        return Cost()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        return pool_difference(x)


@in_float32
def pool_difference(x: jax.Array) -> jax.Array:
    """Returns the 3x3 average of x (b, h, w, c) minus x, summed in float32."""
    wide = x.astype(accumulator(x.dtype))
    total, count = wide, jnp.ones((1, *x.shape[1:3], 1), wide.dtype)
    for axis in (1, 2):  # a box is a sum of rows of a sum of columns
        total, count = _sum_of_three(total, axis), _sum_of_three(count, axis)
    return (total / count - wide).astype(x.dtype)


def _sum_of_three(x: jax.Array, axis: int) -> jax.Array:
    """Sums each token with its two neighbours along an axis; outside of the grid are zeros."""
    length, padding = x.shape[axis], [(0, 0)] * x.ndim
    padding[axis] = (1, 1)
    padded = jnp.pad(x, padding)
    parts = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(3)]
    return parts[0] + parts[1] + parts[2]
