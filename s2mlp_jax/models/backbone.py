"""The skeleton: patch embedding, blocks of (token mixer, channel MLP), pooling, head."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.models import layers
from s2mlp_jax.models.spatial_shift import directions_of_channels
from s2mlp_jax.models.token_mixers import SpatialShiftMixer
from s2mlp_jax.models.variants import Variant


class Block(nn.Module):
    """Two skips, each around a branch that ends in its norm (Figure 1 of the paper).

    y = x + norm(mixer(x)); z = y + norm(channel_mlp(y)).
    """

    variant: Variant
    drop_path: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        v = self.variant

        def skip(x: jax.Array, branch: nn.Module, name: str) -> jax.Array:
            y = layers.norm(v.norm, v.norm_eps, v.affine_init, self.dtype, name)(branch(x))
            return x + layers.drop_path(self.drop_path)(y, deterministic=not train)

        x = skip(x, SpatialShiftMixer(v.shift, v.border, self.dtype, name="mixer"), "mixer_norm")
        return skip(x, layers.ChannelMLP(v.expansion, self.dtype, name="mlp"), "mlp_norm")


def shift_variables(variant: Variant) -> Any:
    """Returns the collection "shift" of a variant: its pattern as data, for `Backbone.apply`.

    Models that differ in their pattern alone are then one program, and can be stacked.
    """
    directions = directions_of_channels(variant.shift, variant.dim)
    return {f"block_{i:02d}": {"mixer": {"directions": directions}} for i in range(variant.depth)}


class Backbone(nn.Module):
    """An image classifier.

    Attributes:
      variant: the architecture, one row of `variants.VARIANTS` or a changed one.
      num_classes: outputs of the head.
      dtype: compute dtype; parameters, norm statistics, pooling and logits are float32.
      remat: keep only what goes from block to block for the backward pass, and compute the
        inside of each block again there. The parameters are the same.
    """

    variant: Variant
    num_classes: int
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Classifies normalised images.

        Args:
          images: (b, h, w, channels), floating point; the patch must divide h and w.
          train: turns drop path on, which then needs `rngs={"dropout": key}`.

        Returns:
          Logits, (b, num_classes), float32.

        Raises:
          ValueError: for integer images, or a size that the patch does not divide.
        """
        v = self.variant
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                "The model expects normalised floating-point images (b, h, w, channels), "
                f"got {images.dtype}{list(images.shape)}."
            )
        patches = layers.patchify(images, v.patch_size).astype(self.dtype)
        x = layers.dense(v.dim, self.dtype, "embed")(patches)
        x = layers.norm(v.norm, v.norm_eps, 1.0, self.dtype, "embed_norm")(x)
        rates = layers.drop_path_rates(v.drop_path, v.depth, v.drop_path_rule)
        # `train` is static: the third argument, self included.
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, rate in enumerate(rates):
            x = block(v, rate, self.dtype, name=f"block_{i:02d}")(x, train)
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        return layers.dense(self.num_classes, jnp.float32, "head")(x)
