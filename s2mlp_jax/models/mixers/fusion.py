"""How mixers of several branches sum them: S²-MLPv2 and ViP."""

import typing
from typing import Annotated, ClassVar

import flax.linen as nn
import jax

from s2mlp_jax.checks import Choices, FieldError, Text, shown
from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.layers import INITS, gelu, linear
from s2mlp_jax.models.mixers.base import Context, TokenMixer
from s2mlp_jax.models.precision import accumulator, in_float32


class Branched(TokenMixer):
    """A mixer that sums branches, of which a variant may leave some out.

    Attributes:
      all_branches: names of its branches, in order.
      fusion_bias: whether the layers of split attention have biases.
    """

    branches: Annotated[str, Text()] = ""  # joined by "+", out of all_branches; "" for all
    fusion: Annotated[str, Choices(("split_attention", "mean", "sum"))] = "split_attention"

    all_branches: ClassVar[tuple[str, ...]] = ()
    fusion_bias: ClassVar[bool] = False

    @property
    def branch_names(self) -> tuple[str, ...]:
        """The branches that are summed, in order."""
        return tuple(self.branches.split("+")) if self.branches else self.all_branches

    def check(self, dim: int) -> None:
        """Raises a ValueError for branches that are unknown or named twice."""
        names = self.branch_names
        if set(names) - set(self.all_branches) or len(set(names)) < len(names):
            raise FieldError(
                f"branches {shown(self.branches)} must be some of {', '.join(self.all_branches)}, "
                "each once, joined by '+'."
            )

    def fusion_cost(self, dim: int) -> Cost:
        """Counts split attention's two layers, which run once per image."""
        if self.fusion != "split_attention":
            return Cost()
        hidden, outputs = dim // 4, len(self.branch_names) * dim
        bias = self.fusion_bias
        return linear_cost(dim, hidden, 1, bias) + linear_cost(hidden, outputs, 1, bias)

    def fuse(self, branches: list[jax.Array]) -> jax.Array:
        """Sums K arrays (b, h, w, c), with a submodule "fusion"."""
        return Fusion(self.context, self.fusion, self.fusion_bias, name="fusion")(branches)


class Fusion(nn.Module):
    """Sums K branches: weighted by split attention, or plainly.

    Split attention (S²-MLPv2, arXiv 2108.01072, Equation 2; ViP): a vector of the image, the mean
    over the tokens of the sum of the branches, gives through two layers, c -> c/4 -> K c, a
    weight for each channel of each branch, by a softmax over the branches.
    """

    context: Context
    fusion: str
    use_bias: bool

    @nn.compact
    def __call__(self, branches: list[jax.Array]) -> jax.Array:
        """Maps K arrays (b, h, w, c) to one."""
        if self.fusion != "split_attention":
            total = _total(branches)
            return total / len(branches) if self.fusion == "mean" else total
        c, k, dtype = branches[0].shape[-1], len(branches), self.context.dtype
        draw, wide = INITS[self.context.init].linear, accumulator(dtype)
        a = _total([x.astype(wide).mean(axis=(1, 2)) for x in branches])
        a = gelu(linear(a, c // 4, draw, dtype, "fc_in", self.use_bias))
        a = linear(a, k * c, draw, dtype, "fc_out", self.use_bias).reshape(-1, k, c)
        weights = nn.softmax(a.astype(wide), axis=1)
        return weighted_sum(branches, [weights[:, i, None, None, :] for i in range(k)])


@in_float32
def weighted_sum(branches: list[jax.Array], weights: list[jax.Array]) -> jax.Array:
    """Sums K arrays (b, h, w, c), each times its weights (b, 1, 1, c)."""
    wide, dtype = accumulator(branches[0].dtype), branches[0].dtype
    parts = [x.astype(wide) * w for x, w in zip(branches, weights, strict=True)]
    return _total(parts).astype(dtype)


def _total(arrays: typing.Sequence[jax.Array]) -> jax.Array:
    return sum(arrays[1:], start=arrays[0])
