"""A linear layer over the tokens, which MLP-Mixer and ResMLP mix them with."""

import flax.linen as nn
import jax

from s2mlp_jax.models.layers import Draw, Dtype
from s2mlp_jax.models.precision import keep, product


class OverTokens(nn.Module):
    """A linear layer over the tokens, the same for every channel; its weights count the tokens."""

    features: int
    draw: Draw
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, n, c) to (b, features, c).

        Raises:
          ValueError: if the weights are there and for another number of tokens.
        """
        n = x.shape[1]
        if self.has_variable("params", "kernel"):
            made_for = self.get_variable("params", "kernel").shape[0]
            if made_for != n:
                raise ValueError(wrong_grid(f"{made_for} tokens", f"{n} tokens"))
        kernel = self.param("kernel", self.draw.kernel(n), (n, self.features))
        bias = self.param("bias", self.draw.bias(n), (self.features,))
        y = product("bnc,nm->bmc", x.astype(self.dtype), kernel) + bias[None, :, None]
        return keep(y.astype(self.dtype))


def wrong_grid(made_for: str, got: str) -> str:
    """Error text for an image of another number of tokens than the weights were made for."""
    return (
        f"The token-mixing weights are for {made_for}, and the image has {got}: this model is "
        "bound to the image size that it was made for."
    )
