"""ResMLP's token mixer (arXiv 2105.03404, equation 2)."""

import flax.linen as nn
import jax

from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.mixers.over_tokens import OverTokens


@register("token_linear")
class TokenLinear(TokenMixer):
    """One linear layer over the tokens, the same for every channel."""

    bound_to_grid = True
    row_of_tokens = True
    relations = {"linear layer over tokens (ResMLP)": {}}

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the linear layer, which runs once per channel."""
        return linear_cost(tokens, tokens, dim)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        layer = OverTokens(h * w, self.draw, self.context.dtype, name="fc")
        return layer(x.reshape(b, h * w, c)).reshape(x.shape)
