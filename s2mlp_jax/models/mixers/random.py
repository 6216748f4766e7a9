"""A control that does not learn: a fixed random mixing (MetaFormer's RandFormer, 2210.13452)."""

import zlib
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.checks import Range
from s2mlp_jax.models.layer_cost import Cost
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.precision import keep, product

_MOST = 64  # tokens per side: the matrix has 16.8 million numbers


@register("random")
class Random(TokenMixer):
    """Multiplies the n tokens by a fixed matrix (n, n), each block by another one.

    Its rows are softmaxes of numbers between 0 and 1. It is drawn anew wherever the model is
    made, from `mixing_seed` and the name of the block, and is no parameter.
    """

    # of the matrices; the run's seed does not change them
    mixing_seed: Annotated[int, Range("[0, 2^32)")] = 0

    bound_to_grid = True
    row_of_tokens = True
    relations = {"random matrix (RandFormer)": {}}

    def check_grid(self, grid: int) -> None:
        """Raises a ValueError if the matrix, which is drawn with the model, takes too long."""
        if grid > _MOST:
            raise ValueError(f"the mixer random makes a matrix for at most {_MOST}x{_MOST} tokens")

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the product with the matrix, which has no trained numbers."""
        return Cost(macs=tokens**2 * dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        matrix = jnp.asarray(random_mixing(h * w, self.mixing_seed, "/".join(self.path)))
        mixed = product("bnc,nm->bmc", x.reshape(b, h * w, c), matrix)
        return keep(mixed.astype(x.dtype)).reshape(x.shape)


def random_mixing(tokens: int, seed: int, name: str) -> np.ndarray:
    """Returns the matrix (n, n), float32, whose column m holds the weights of output token m."""
    # numpy's generator, whose numbers are the same in every version and on every device.
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    weights = np.exp(rng.random((tokens, tokens)))
    return (weights / weights.sum(axis=0)).astype(np.float32)
