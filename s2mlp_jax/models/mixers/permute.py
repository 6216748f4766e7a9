"""ViP's token mixer, the Permute-MLP (arXiv 2106.12368)."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.checks import FieldError, Range
from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.mixers.base import register
from s2mlp_jax.models.mixers.fusion import Branched
from s2mlp_jax.models.mixers.over_tokens import wrong_grid


@register("permute")
class Permute(Branched):
    """Layers over (rows, s), (columns, s) and channels, fused, and a layer over channels.

    The channels are n segments of s = c / n; with as many rows and columns as segments, a layer
    over a segment's channels and one axis of the grid has c inputs.
    """

    # tokens a side in the first stage, which must be set
    segments: Annotated[int, Range("[0, 8192]")] = 0

    bound_to_grid = True
    all_branches = ("height", "width", "channel")
    fusion_bias = True
    channel_layers = ("fc_out",)
    relations = {
        "permutation, sum (ViP)": {"segments": 9, "fusion": "sum"},
        "permutation, split attention (ViP)": {"segments": 9},
    }

    @property
    def segments_here(self) -> int:
        """Segments of this stage: the sides of the grid are halved before each stage."""
        return self.segments >> self.context.stage

    def check(self, dim: int) -> None:
        """Raises a ValueError without segments, or if they do not divide the channels."""
        super().check(dim)
        if not self.segments:
            raise ValueError(
                "permute (ViP) is made for one size of the grid: set segments, the "
                "tokens per side: the image size over the patch size."
            )
        n = self.segments_here
        if n < 1 or dim % n:
            raise FieldError(
                f"segments {self.segments}: the {n} segments of stage {self.context.stage + 1} do "
                f"not divide its {dim} channels (dim)."
            )

    def check_grid(self, grid: int) -> None:
        """Raises a ValueError if there are not as many segments as tokens a side."""
        if grid != self.segments:
            raise ValueError(
                f"this model is made for segments of {self.segments}: set segments to {grid}"
            )

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts a layer per branch, the fusion, and the last layer."""
        branches = linear_cost(dim, dim, tokens, bias=False) * len(self.branch_names)
        return branches + self.fusion_cost(dim) + linear_cost(dim, dim, tokens)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, n, n, c) to (b, n, n, c).

        Raises:
          ValueError: for another grid than the one that the variant is made for.
        """
        b, h, w, c = x.shape
        n = self.segments_here
        if (h, w) != (n, n):
            raise ValueError(wrong_grid(f"{n}x{n} tokens (segments)", f"{h}x{w}"))
        cut = x.reshape(b, h, w, n, c // n)

        def over_axis(axis: int, name: str) -> jax.Array:
            exchanged = jnp.swapaxes(cut, axis, 3)  # that axis beside s, segments in its place
            y = self.linear(exchanged.reshape(b, n, n, c), c, name, use_bias=False)
            return jnp.swapaxes(y.reshape(b, n, n, n, c // n), axis, 3).reshape(x.shape)

        made = {
            "height": lambda: over_axis(1, "fc_height"),
            "width": lambda: over_axis(2, "fc_width"),
            "channel": lambda: self.linear(x, c, "fc_channel", use_bias=False),
        }
        return self.linear(self.fuse([made[name]() for name in self.branch_names]), c, "fc_out")
