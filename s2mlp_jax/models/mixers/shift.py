"""S²-MLP's token mixer: two linear layers over the channels around the spatial shift."""

from typing import Annotated

import flax.linen as nn
import jax

from s2mlp_jax.checks import Choices, Range, Text
from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.layers import gelu
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.spatial_shift import (
    BORDERS,
    check_pattern,
    shift_channels,
    spatial_shift,
)


@register("shift")
class SpatialShift(TokenMixer):
    """fc1(c -> c), GELU, spatial shift, fc2(c -> c): the upper half of the paper's Figure 1.

    A variable "directions" (c,) in the collection "shift", see `shift_channels`, takes the place
    of the pattern.
    """

    shift: Annotated[str, Text()] = "a"  # Table 7: a..j, none, or directions joined by "+"
    border: Annotated[str, Choices(BORDERS)] = "keep"  # Algorithm 1: keep
    # of the channels, that the pattern moves; ShiftViT: 1/3
    shift_fraction: Annotated[float, Range("(0, 1]")] = 1.0

    channel_layers = ("fc_in", "fc_out")
    relations = {
        "spatial shift (a)": {"shift": "a"},
        "spatial shift (b)": {"shift": "b"},
        "spatial shift (e)": {"shift": "e"},
        "no shift": {"shift": "none"},
        "partial shift (ShiftViT)": {"shift_fraction": 1 / 3, "border": "zero"},
    }

    def check(self, dim: int) -> None:
        """Raises a ValueError for an unknown pattern, or one of more groups than channels."""
        check_pattern(self.shift, dim, self.shift_fraction)

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the two linear layers; the shift has no parameters and multiplies nothing."""
        return linear_cost(dim, dim, tokens) * 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        x = gelu(self.linear(x, x.shape[-1], "fc_in"))
        if self.has_variable("shift", "directions"):
            x = shift_channels(x, self.get_variable("shift", "directions"), self.border)
        else:
            x = spatial_shift(x, self.shift, self.border, self.shift_fraction)
        return self.linear(x, x.shape[-1], "fc_out")
