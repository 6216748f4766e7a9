"""The parts every model is made of: patch embedding, channel MLP, norms, drop path."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any

NORMS: tuple[str, ...] = ("layer_norm", "affine")

# The paper names no initialisation. It trains "as DeiT", which draws every linear layer
# from a normal distribution of this standard deviation and starts biases at zero.
INIT_STD = 0.02


def dense(features: int, dtype: Dtype, name: str) -> nn.Dense:
    """A linear layer over the last axis, with bias, as everywhere in the paper."""
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(INIT_STD), name=name)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, x * Phi(x), which the paper writes; Flax defaults to the tanh form."""
    return nn.gelu(x, approximate=False)


class Affine(nn.Module):
    """ResMLP's affine, scale * x + bias per channel (arXiv 2105.03404, equation 1).

    Attributes:
      scale_init: initial value of every scale; the bias starts at zero.
      dtype: compute dtype; the parameters are float32.
    """

    scale_init: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., c) to (..., c)."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.constant(self.scale_init), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        broadcast = (1,) * (x.ndim - 1) + shape
        scale, bias = (p.reshape(broadcast).astype(self.dtype) for p in (scale, bias))
        return x.astype(self.dtype) * scale + bias


def norm(kind: str, eps: float, scale_init: float, dtype: Dtype, name: str) -> nn.Module:
    """A norm by its name in `NORMS`. LayerNorm's statistics are float32 in any dtype."""
    if kind == "affine":
        return Affine(scale_init, dtype=dtype, name=name)
    return nn.LayerNorm(epsilon=eps, dtype=dtype, name=name)


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts images (b, h, w, c) into flat patches (b, h/p, w/p, p*p*c), row by row.

    Raises:
      ValueError: if the patch does not divide the image.
    """
    b, h, w, c = images.shape
    p = patch_size
    if h % p or w % p:
        raise ValueError(
            f"An image of {h}x{w} pixels cannot be cut into patches of {p}x{p}: "
            f"height and width must be multiples of {p}."
        )
    x = images.reshape(b, h // p, p, w // p, p, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // p, w // p, p * p * c)


class ChannelMLP(nn.Module):
    """fc(c -> rc), GELU, fc(rc -> c) on every token alone (fc3 and fc4 of Figure 1)."""

    expansion: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        hidden = gelu(dense(self.expansion * x.shape[-1], self.dtype, "fc_in")(x))
        return dense(x.shape[-1], self.dtype, "fc_out")(hidden)


def drop_path_rates(rate: float, depth: int, rule: str) -> list[float]:
    """The drop-path rate of every block: "linear" from 0 to `rate` over depth, or "constant".

    Raises:
      ValueError: for another rule.
    """
    if rule == "constant":
        return [rate] * depth
    if rule == "linear":
        return [rate * i / max(depth - 1, 1) for i in range(depth)]
    raise ValueError(f"Unknown drop_path_rule {rule!r}. Allowed are linear, constant.")


def drop_path(rate: float) -> nn.Dropout:
    """Stochastic depth: drops a whole branch per image, scaling the kept ones by 1/(1-rate)."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3))
