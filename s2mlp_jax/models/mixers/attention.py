"""ViT's token mixer: multi-head self-attention (arXiv 2010.11929, appendix A)."""

from typing import Annotated

import flax.linen as nn
import jax

from s2mlp_jax.checks import FieldError, Range
from s2mlp_jax.models.layer_cost import Cost, linear_cost
from s2mlp_jax.models.mixers.base import TokenMixer, register
from s2mlp_jax.models.precision import keep, product


@register("attention")
class Attention(TokenMixer):
    """Multi-head self-attention over all tokens, with biases."""

    head_dim: Annotated[int, Range("[1, 16384]")] = 64  # channels per head

    row_of_tokens = True
    channel_layers = ("qkv", "fc_out")
    relations = {"self-attention (ViT)": {"head_dim": 6}}

    def check(self, dim: int) -> None:
        """Raises a ValueError if the heads do not divide the channels."""
        if dim % self.head_dim:
            raise FieldError(f"head_dim {self.head_dim} does not divide dim, {dim} channels.")

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts the linear layers and, apart, the products of queries, keys and values."""
        products = Cost(attention_macs=2 * tokens**2 * dim)
        return linear_cost(dim, 3 * dim, tokens) + products + linear_cost(dim, dim, tokens)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        dtype, shape = self.context.dtype, (b, h * w, 3, c // self.head_dim, self.head_dim)
        qkv = self.linear(x, 3 * c, "qkv").reshape(shape)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = product("bnhd,bmhd->bhnm", q, k) * self.head_dim**-0.5
        weights = nn.softmax(scores, axis=-1).astype(dtype)
        mixed = keep(product("bhnm,bmhd->bnhd", weights, v).astype(dtype))
        return self.linear(mixed.reshape(x.shape), c, "fc_out")
