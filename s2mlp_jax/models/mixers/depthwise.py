"""The depthwise 3x3 convolution that section 3.3 of the paper compares the shift with."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.checks import Choices
from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.layers import gelu
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.precision import accumulator, in_float32, keep
from s2mlp_jax.models.spatial_shift import BORDERS, DIRECTIONS, group_sizes, parse_pattern


@register("depthwise")
class Depthwise(TokenMixer):
    """fc1, GELU, a depthwise 3x3 convolution in the shift's place (section 3.3), fc2.

    The convolution has no bias, so that the weights of `shift_as_depthwise` make it the shift.
    """

    border: Annotated[str, Choices(BORDERS)] = "keep"
    # shift: the kernels that make it the spatial shift (a)
    depthwise_init: Annotated[str, Choices(("normal", "shift"))] = "normal"

    channel_layers = ("fc_in", "fc_out")
    relations = {"depthwise convolution 3x3": {}}

    def check(self, dim: int) -> None:
        """Raises a ValueError if the kernels of the shift have more groups than channels."""
        if self.depthwise_init == "shift":
            group_sizes(dim, 4)

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the two linear layers and the kernels."""
        return linear_cost(dim, dim, tokens) * 2 + Cost(9 * dim, 9 * dim * tokens)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        c = x.shape[-1]
        x = gelu(self.linear(x, c, "fc_in"))
        draw = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1))
        if self.depthwise_init == "shift":
            kernel = self.param("kernel", lambda _: jnp.asarray(shift_as_depthwise("a", c)))
        else:
            kernel = self.param("kernel", draw, (3, 3, c))
        x = keep(depthwise_convolution(x, kernel, self.border))
        return self.linear(x, c, "fc_out")


def shift_kernels(pattern: str) -> np.ndarray:
    """Returns the one-hot kernels (groups, 3, 3) that a pattern equals inside the grid.

    As convolutions are written in deep learning:
    out[i, j] = sum over (d, e) of kernel[d, e] * x[i + d - 1, j + e - 1].

    Raises:
      ValueError: unknown pattern.
    """
    directions = parse_pattern(pattern)
    kernels = np.zeros((len(directions), 3, 3), np.float32)
    for kernel, direction in zip(kernels, directions, strict=True):
        rows, columns = DIRECTIONS[direction]
        kernel[1 - rows, 1 - columns] = 1.0  # what moves right comes from the left
    return kernels


def shift_as_depthwise(pattern: str, channels: int) -> np.ndarray:
    """Returns `shift_kernels` for each channel, (3, 3, c): weights of `depthwise_convolution`."""
    kernels = shift_kernels(pattern)
    return np.moveaxis(np.repeat(kernels, group_sizes(channels, len(kernels)), axis=0), 0, -1)


def depthwise_convolution(x: jax.Array, kernel: jax.Array, border: str) -> jax.Array:
    """A 3x3 convolution of every channel by itself, as nine shifted products.

    XLA fuses them into one loop; its own grouped convolution takes many times as long on a CPU
    (`results/spatial_shift.md`). Summed in float32, and rounded to x's dtype once.

    Args:
      x: (b, h, w, c).
      kernel: (3, 3, c) float32; its entry [1, 1] is that of the token itself.
      border: what lies outside of the grid: "zero"; "circular", the opposite edge; or "keep", the
        nearest token, so that the weights of pattern (a) keep a token's value as the shift does.
    """
    h, w = x.shape[1:3]

    @in_float32
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padded = _with_border(x.astype(accumulator(x.dtype)), border)
        result = jnp.zeros(x.shape, padded.dtype)
        for i in range(3):
            for j in range(3):
                weight = kernel[i, j][None, None, None, :]
                result = result + padded[:, i : i + h, j : j + w, :] * weight
        return result.astype(x.dtype)

    return convolve(x, kernel)


def _with_border(x: jax.Array, border: str) -> jax.Array:
    """Surrounds (b, h, w, c) by one token on each side."""
    if border == "zero":
        return jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    # Picked by index: the gradient of `jnp.pad`'s edges costs four times as much on a CPU.
    mode = {"keep": "clip", "circular": "wrap"}[border]
    for axis in (1, 2):
        x = jnp.take(x, np.arange(-1, x.shape[axis] + 1), axis=axis, mode=mode)
    return x
