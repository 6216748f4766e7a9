"""S²-MLPv2's token mixer (arXiv 2108.01072)."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.checks import Choices
from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.mixers.base import register
from s2mlp_jax.models.mixers.fusion import Branched
from s2mlp_jax.models.spatial_shift import BORDERS, group_sizes, spatial_shift

# The first branch moves as (a), the second with the axes exchanged.
SPLIT_PATTERNS = {"shift1": "right+left+down+up", "shift2": "down+up+right+left", "identity": ""}


@register("split_shift")
class SplitShift(Branched):
    """fc(c -> K c), split, shift each part in its own way, fuse, fc(c -> c)."""

    border: Annotated[str, Choices(BORDERS)] = "keep"

    all_branches = tuple(SPLIT_PATTERNS)
    channel_layers = ("fc_in", "fc_out")
    relations = {
        "two shifts, mean (S²-MLPv2)": {"fusion": "mean"},
        "two shifts, split attention (S²-MLPv2)": {},
    }

    def check(self, dim: int) -> None:
        """Raises a ValueError for wrong branches, or fewer than four channels."""
        super().check(dim)
        group_sizes(dim, 4)

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the two linear layers and the fusion."""
        parts = linear_cost(dim, len(self.branch_names) * dim, tokens)
        return parts + self.fusion_cost(dim) + linear_cost(dim, dim, tokens)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        names, c = self.branch_names, x.shape[-1]
        parts = jnp.split(self.linear(x, len(names) * c, "fc_in"), len(names), axis=-1)
        patterns = [SPLIT_PATTERNS[name] for name in names]
        shifted = [
            spatial_shift(part, pattern, self.border) if pattern else part
            for part, pattern in zip(parts, patterns, strict=True)
        ]
        return self.linear(self.fuse(shifted), c, "fc_out")
