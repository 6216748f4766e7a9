"""MLP-Mixer's token mixer (arXiv 2105.01601)."""

from typing import Annotated

import flax.linen as nn
import jax

from s2mlp_jax.checks import FieldError, Range
from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.layers import gelu
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.mixers.over_tokens import OverTokens


@register("token_mlp")
class TokenMLP(TokenMixer):
    """fc(n -> r c), GELU, fc(r c -> n) over the n tokens, the same for every channel."""

    # hidden width over the number of channels, r
    token_expansion: Annotated[float, Range("(0, 64]")] = 0.5

    bound_to_grid = True
    row_of_tokens = True
    relations = {"token-mixing MLP (MLP-Mixer)": {}}

    def check(self, dim: int) -> None:
        """Raises a ValueError if there would be no hidden unit."""
        if int(self.token_expansion * dim) < 1:
            raise FieldError(
                f"token_expansion {self.token_expansion} of dim, {dim} channels, is less than one."
            )

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the two linear layers, which run once per channel."""
        hidden = int(self.token_expansion * dim)
        return linear_cost(tokens, hidden, dim) + linear_cost(hidden, tokens, dim)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        hidden, dtype = int(self.token_expansion * c), self.context.dtype
        y = OverTokens(hidden, self.draw, dtype, name="fc_in")(x.reshape(b, h * w, c))
        return OverTokens(h * w, self.draw, dtype, name="fc_out")(gelu(y)).reshape(x.shape)
