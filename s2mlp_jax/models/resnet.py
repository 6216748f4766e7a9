"""ResNet-50 (arXiv 1512.03385), the convolutional reference.

Its skeleton is its own (`skeleton="resnet"`). Of a variant's fields it reads depth, dim,
later_depths, later_dims, expansion, patch_size (of the stem), norm_eps, init (of the head) and the
drop path.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.models import layers
from s2mlp_jax.models.backbone import check_call
from s2mlp_jax.models.precision import accumulator, convolution, in_float32, product
from s2mlp_jax.models.variant import Variant

# He's initialisation by the outputs, as torchvision and timm draw convolutions.
_HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with a batch norm, and a skip around them.

    The stride is that of the 3x3 convolution (ResNet "v1.5"). The last norm starts at scale 0, so
    that a block starts as its skip (arXiv 1706.02677).
    """

    variant: Variant
    dim: int
    stride: int
    drop_path: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (b, h, w, c) to (b, h / stride, w / stride, expansion * dim)."""
        features = self.variant.expansion * self.dim
        convolve = functools.partial(convolve_and_normalise, self.variant, self.dtype, train)
        y = nn.relu(convolve(x, self.dim, 1, 1, "1"))
        y = nn.relu(convolve(y, self.dim, 3, self.stride, "2"))
        y = convolve(y, features, 1, 1, "3", scale_init=nn.initializers.zeros_init())
        y = layers.drop_path(self.drop_path)(y, deterministic=not train)
        if x.shape[-1] != features or self.stride > 1:
            x = convolve(x, features, 1, self.stride, "skip")
        return nn.relu(x + y)


class Convolution(nn.Module):
    """A convolution without bias, padded with zeros so that a stride of 1 keeps the grid.

    A 1x1 convolution is written as a matrix product: otherwise XLA computes its gradients as
    convolutions, which take twice as long on a CPU.
    """

    features: int
    size: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (b, h, w, c) to (b, h / stride, w / stride, features), rounded up."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _HE, shape)
        if self.size == 1:
            x = x[:, :: self.stride, :: self.stride]
            rows = product("nc,cm->nm", x.reshape(-1, x.shape[-1]), kernel[0, 0])
            y = rows.reshape(*x.shape[:3], self.features)
        else:
            y = convolution(x, kernel, self.stride)
        return y.astype(self.dtype)


@in_float32
def _max_pool(x: jax.Array) -> jax.Array:
    """Max pooling, 3x3, stride 2. Windows overlap, so its gradient is a sum."""
    wide = x.astype(accumulator(x.dtype))
    # Padded beforehand, and called by keywords: jax2onnx leaves out a padding that is given as
    # numbers, and takes no other call.
    wide = jnp.pad(wide, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-jnp.inf)
    return nn.max_pool(wide, window_shape=(3, 3), strides=(2, 2)).astype(x.dtype)


def convolve_and_normalise(
    variant: Variant,
    dtype: Any,
    train: bool,
    x: jax.Array,
    features: int,
    size: int,
    stride: int,
    name: str,
    scale_init: layers.Initializer = nn.initializers.ones,
) -> jax.Array:
    """A convolution without bias, padded with zeros to keep the grid, and a batch norm.

    Submodules conv_NAME and norm_NAME of the module that calls it. In training the norm takes the
    statistics of the whole batch, over all devices, and moves its running ones by a tenth.
    """
    convolution = Convolution(features, size, stride, dtype, name=f"conv_{name}")
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=variant.norm_eps,
        dtype=dtype,
        scale_init=scale_init,
        use_fast_variance=False,  # as in `layers.norm`
        name=f"norm_{name}",
    )
    return norm(convolution(x))


class ResNet(nn.Module):
    """An image classifier; the attributes are those of `Backbone`.

    Its variables have a collection "batch_stats" beside "params": the running statistics of the
    batch norms, which training changes.
    """

    variant: Variant
    num_classes: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, output: str = "logits"
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Classifies normalised images; arguments and result are those of `Backbone`."""
        v = self.variant
        check_call(images, output)
        convolve = functools.partial(convolve_and_normalise, v, self.dtype, train)
        x = images.astype(self.dtype)
        if v.patch_size == 4:
            x = nn.relu(convolve(x, v.dim, 7, 2, "stem"))
            x = _max_pool(x)
        else:
            x = nn.relu(convolve(x, v.dim, 3, 1, "stem"))
        rates = iter(layers.drop_path_rates(v.drop_path, sum(v.depths), v.drop_path_rule))
        # `train` is static: the third argument, self included.
        block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        stages, number = [], 0
        for stage, (depth, dim) in enumerate(zip(v.depths, v.dims, strict=True)):
            for i in range(depth):
                stride = 2 if stage and i == 0 else 1
                name = f"block_{number:02d}"
                x = block(v, dim, stride, next(rates), self.dtype, name=name)(x, train)
                number += 1
            stages.append(x)
        if output == "stages":
            return tuple(stages)
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        if output == "pooled":
            return x
        draw = layers.INITS[v.init].head
        return layers.linear(x, self.num_classes, draw, jnp.float32, "head")
