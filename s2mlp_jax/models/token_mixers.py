"""How tokens talk to each other: what differs between the models of one skeleton."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.models.layers import dense, gelu
from s2mlp_jax.models.spatial_shift import shift_channels, spatial_shift


class SpatialShiftMixer(nn.Module):
    """fc1(c -> c), GELU, spatial shift, fc2(c -> c): the upper half of the paper's Figure 1.

    A variable "directions" (c,) in the collection "shift", see `shift_channels`, takes the place
    of the pattern.
    """

    shift: str
    border: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        x = gelu(dense(x.shape[-1], self.dtype, "fc_in")(x))
        if self.has_variable("shift", "directions"):
            x = shift_channels(x, self.get_variable("shift", "directions"), self.border)
        else:
            x = spatial_shift(x, self.shift, self.border)
        return dense(x.shape[-1], self.dtype, "fc_out")(x)
