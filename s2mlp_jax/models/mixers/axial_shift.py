"""AS-MLP's token mixer (arXiv 2107.08391, section 3.2 and Algorithm 1)."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.checks import Choices, Range
from s2mlp_jax.models.layer_cost import Cost, linear_cost, norm_cost
from s2mlp_jax.models.layers import gelu
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.precision import accumulator

# What a token gets whose source lies outside the grid -> the mode of `jnp.pad` that gives it.
AXIAL_BORDERS: dict[str, str] = {
    "zero": "constant",
    "circular": "wrap",
    "reflect": "reflect",
    "replicate": "edge",
}


@register("axial_shift")
class AxialShift(TokenMixer):
    """fc, norm, GELU, the two axial shifts with a layer each, their sum, norm, fc."""

    border: Annotated[str, Choices(AXIAL_BORDERS)] = "zero"
    shift_size: Annotated[int, Range("[1, 256]")] = 5  # chunks of the channels
    dilation: Annotated[int, Range("[1, 64]")] = 1  # tokens between the offsets of two chunks

    channel_layers = ("fc_in", "fc_width", "fc_height", "fc_out")
    relations = {"axial shift of 5 (AS-MLP)": {"border": "zero"}}

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the four linear layers and the two norms."""
        return linear_cost(dim, dim, tokens) * 4 + norm_cost(dim) * 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        c = x.shape[-1]

        def shifted(x: jax.Array, axis: int, name: str) -> jax.Array:
            moved = axial_shift(x, axis, self.shift_size, self.dilation, self.border)
            return gelu(self.linear(moved, c, name))

        x = gelu(self.norm(self.linear(x, c, "fc_in"), "norm_in"))
        y = shifted(x, 2, "fc_width") + shifted(x, 1, "fc_height")
        return self.linear(self.norm(y, "norm_out"), c, "fc_out")


def chunk_offsets(channels: int, shift_size: int, dilation: int) -> list[tuple[int, int]]:
    """Returns (channels, offset in tokens) of each chunk, in order.

    Chunk i of `shift_size` moves by (i - shift_size // 2) * dilation. Chunks have
    ceil(channels / shift_size) channels, the last one what is left, as in the authors' code;
    where that uses the channels up early, the last offsets do not occur.
    """
    size = -(-channels // shift_size)
    starts = range(0, channels, size)
    return [
        (min(size, channels - start), (i - shift_size // 2) * dilation)
        for i, start in enumerate(starts)
    ]


def axial_shift(
    x: jax.Array, axis: int, shift_size: int = 5, dilation: int = 1, border: str = "zero"
) -> jax.Array:
    """Shifts chunks of the channels along one axis, each by an offset of its own.

    Args:
      x: (b, h, w, c).
      axis: 1 moves along the rows' index (vertically), 2 along the columns'.
      shift_size: how many chunks; from -(shift_size // 2) tokens on, one more a chunk, towards
        the larger index.
      dilation: multiplies the offsets.
      border: one of `AXIAL_BORDERS`.

    Returns:
      (b, h, w, c), same dtype.

    Raises:
      ValueError: unknown border.
    """
    if border not in AXIAL_BORDERS:
        raise ValueError(f"Unknown border {border!r}. Allowed are {', '.join(AXIAL_BORDERS)}.")
    chunks = chunk_offsets(x.shape[-1], shift_size, dilation)
    cuts = np.cumsum([channels for channels, _ in chunks])[:-1]
    length = x.shape[axis]
    shifted = []
    # Repeating an edge sums its gradient; the other modes move values only.
    wide = accumulator(x.dtype) if border == "replicate" else x.dtype
    for part, (_, offset) in zip(jnp.split(x.astype(wide), cuts, axis=-1), chunks, strict=True):
        padding = [(0, 0)] * 4
        padding[axis] = (max(offset, 0), max(-offset, 0))
        padded = jnp.pad(part, padding, mode=AXIAL_BORDERS[border])
        start = max(-offset, 0)
        shifted.append(jax.lax.slice_in_dim(padded, start, start + length, axis=axis))
    return jnp.concatenate(shifted, axis=-1).astype(x.dtype)
