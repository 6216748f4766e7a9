"""A control: no token mixing at all (MetaFormer's IdentityFormer, arXiv 2210.13452)."""

import jax

from s2mlp_jax.models.layer_cost import Cost
from s2mlp_jax.models.mixers.base import TokenMixer, register


@register("identity")
class Identity(TokenMixer):
    """Returns the tokens as they are."""

    row_of_tokens = True
    relations = {"identity": {}}

    def cost(self, dim: int, tokens: int) -> Cost:
        """Costs nothing."""
        return Cost()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        return x
