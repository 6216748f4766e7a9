"""The parts every model is made of: patch embedding, channel MLP, norms, drop path."""

import typing
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.models.precision import (
    accumulator,
    gelu,
    keep,
    normalize,
    product,
    scale_and_add,
)

Dtype = typing.Any
Initializer = Callable[..., jax.Array]

NORMS: tuple[str, ...] = ("layer_norm", "affine", "group_norm")
DROP_PATH_RULES: tuple[str, ...] = ("linear", "constant")

# The deviation from which DeiT and its followers, S²-MLP among them, draw linear layers.
INIT_STD = 0.02


class Draw(typing.NamedTuple):
    """How the weights of a layer of so many inputs are drawn, and its biases."""

    kernel: Callable[[int], Initializer]
    bias: Callable[[int], Initializer]


def _uniform(inputs: int) -> Initializer:
    """Between ±1/sqrt(inputs): what PyTorch draws weights and biases from by default."""
    bound = inputs**-0.5

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def _zero(inputs: int) -> Initializer:
    return nn.initializers.zeros_init()


_NORMAL = Draw(lambda inputs: nn.initializers.normal(INIT_STD), _zero)
_LECUN = Draw(lambda inputs: nn.initializers.lecun_normal(), _zero)
_TORCH = Draw(_uniform, _uniform)
_ZEROS = Draw(_zero, _zero)


class Init(typing.NamedTuple):
    """How a model's weights are drawn: linear layers, convolutions, and the head.

    Convolutions are the patch embedding, what merges patches, and AS-MLP's 1x1 convolutions:
    linear layers too, but PyTorch code that draws the `Linear`s itself leaves them at its default.
    """

    linear: Draw
    conv: Draw
    head: Draw


# The field `init` of a variant; docs/fidelity.md has the sources.
INITS: dict[str, Init] = {
    "normal": Init(_NORMAL, _NORMAL, _NORMAL),
    "deit": Init(_NORMAL, _TORCH, _NORMAL),
    "mixer": Init(_LECUN, _LECUN, _ZEROS),
    "as_mlp": Init(_TORCH, _TORCH, _NORMAL),
}


class Linear(nn.Module):
    """A linear layer over the last axis.

    Attributes:
      dtype: compute dtype; the parameters are float32, and so are all sums (`precision.py`).
    """

    features: int
    draw: Draw
    dtype: Dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., c) to (..., features)."""
        inputs = x.shape[-1]
        kernel = self.param("kernel", self.draw.kernel(inputs), (inputs, self.features))
        # With one row a token the gradient of the weights is a plain matrix product; of four axes
        # XLA makes one for a CPU by transposing the activations in memory.
        rows = x.reshape(-1, inputs).astype(self.dtype)
        y = product("nc,cm->nm", rows, kernel)
        if self.use_bias:
            y = y + self.param("bias", self.draw.bias(inputs), (self.features,))[None, :]
        return keep(y.astype(self.dtype).reshape(*x.shape[:-1], self.features))


def linear(
    x: jax.Array, features: int, draw: Draw, dtype: Dtype, name: str, use_bias: bool = True
) -> jax.Array:
    """Applies a `Linear` layer, as a submodule of the module that calls it."""
    return Linear(features, draw, dtype, use_bias, name=name)(x)


class Affine(nn.Module):
    """ResMLP's affine, scale * x + bias per channel (arXiv 2105.03404, equation 1).

    Attributes:
      scale_init: initial value of every scale; the bias starts at zero.
      use_bias: False for LayerScale, the scale alone (CaiT, arXiv 2103.17239).
      dtype: compute dtype; the parameters are float32.
    """

    scale_init: float = 1.0
    use_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., c) to (..., c)."""
        shape = (x.shape[-1],)
        broadcast = (1,) * (x.ndim - 1) + shape
        scale = self.param("scale", nn.initializers.constant(self.scale_init), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), shape).reshape(broadcast)
        return scale_and_add(x.astype(self.dtype), scale.reshape(broadcast), bias)


class Norm(nn.Module):
    """Layer norm, or group norm of one group, in less than float32 (`precision.normalize`).

    Its parameters have the names that Flax gives them, as its norms are used in float32.

    Attributes:
      axes: that mean and variance are taken over, the channels among them.
    """

    axes: tuple[int, ...]
    eps: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, h, w, c)."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones_init(), shape)[None, None, None, :]
        bias = self.param("bias", nn.initializers.zeros_init(), shape)[None, None, None, :]
        return normalize(x.astype(self.dtype), scale, bias, self.axes, self.eps)


def norm(kind: str, eps: float, scale_init: float, dtype: Dtype, name: str) -> nn.Module:
    """A norm by its name in `NORMS`. Statistics are float32 in any dtype.

    The variance is mean((x - mean)²): mean(x²) - mean(x)², Flax's default, is off by 8e-3 where the
    mean is a hundred times the deviation, and no quicker (docs/fidelity.md).

    Args:
      eps: of layer_norm and group_norm.
      scale_init: of affine.
    """
    if kind == "affine":
        return Affine(scale_init, dtype=dtype, name=name)
    if accumulator(dtype) != dtype:
        axes = (1, 2, 3) if kind == "group_norm" else (3,)
        return Norm(axes, eps, dtype, name=name)
    if kind == "group_norm":  # one group: statistics over the grid and the channels of an image
        return nn.GroupNorm(
            num_groups=1, epsilon=eps, dtype=dtype, use_fast_variance=False, name=name
        )
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


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
    draw: Draw = _NORMAL
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        hidden = linear(x, self.expansion * x.shape[-1], self.draw, self.dtype, "fc_in")
        return linear(gelu(hidden), x.shape[-1], self.draw, self.dtype, "fc_out")


def drop_path_rates(rate: float, depth: int, rule: str) -> list[float]:
    """The drop-path rate of every block: "linear" from 0 to `rate` over depth, or "constant".

    `rule` is one of `DROP_PATH_RULES`.
    """
    if rule == "constant":
        return [rate] * depth
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def drop_path(rate: float) -> nn.Dropout:
    """Stochastic depth: drops a whole branch per image, scaling the kept ones by 1/(1-rate)."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3))
