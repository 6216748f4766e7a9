"""The skeleton: patch embedding, blocks of (token mixer, channel MLP), pooling, head."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.models import layers
from s2mlp_jax.models.mixers import SpatialShift
from s2mlp_jax.models.precision import accumulator, add, keep, keep_least
from s2mlp_jax.models.spatial_shift import directions_of_channels
from s2mlp_jax.models.variant import Variant

# What a model can be asked for.
OUTPUTS: tuple[str, ...] = ("logits", "pooled", "stages")


class Block(nn.Module):
    """Two skips, each around a branch: the token mixer, then the channel MLP.

    S²-MLP (Figure 1 of the paper) ends each branch in its norm, y = x + norm(f(x)); the relatives
    begin with it, y = x + scale * f(norm(x)), the scale where they have one.
    """

    variant: Variant
    stage: int
    drop_path: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        v = self.variant
        post = v.norm_position == "post"

        def skip(x: jax.Array, branch: nn.Module, name: str) -> jax.Array:
            init = v.affine_init if post else 1.0
            norm = layers.norm(v.norm, v.norm_eps, init, self.dtype, f"{name}_norm")
            y = norm(branch(x)) if post else branch(norm(x))
            if v.layer_scale:
                scale = layers.Affine(v.layer_scale, False, self.dtype, name=f"{name}_scale")
                y = scale(y)
            return keep(x + layers.drop_path(self.drop_path)(y, deterministic=not train))

        x = skip(x, v.token_mixer(self.stage, self.dtype, "mixer"), "mixer")
        draw = layers.INITS[v.init].linear
        return skip(x, layers.ChannelMLP(v.expansion, draw, self.dtype, name="mlp"), "mlp")


def shift_variables(variant: Variant) -> Any:
    """Returns the collection "shift" of a variant: its pattern as data, for `Backbone.apply`.

    Models that differ in their pattern alone are then one program, and can be stacked.
    """
    mixer = variant.mixer_as(SpatialShift)
    if mixer is None:
        return {}
    dims = np.repeat(variant.dims, variant.depths)  # of each block
    patterns = [directions_of_channels(mixer.shift, dim, mixer.shift_fraction) for dim in dims]
    return {f"block_{i:02d}": {"mixer": {"directions": x}} for i, x in enumerate(patterns)}


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
    def __call__(
        self, images: jax.Array, *, train: bool, output: str = "logits"
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Classifies normalised images, or returns their features, without running the head.

        Args:
          images: (b, h, w, channels), floating point; h and w are multiples of the variant's
            stride, which is the patch size where there is one stage.
          train: turns drop path on, which then needs `rngs={"dropout": key}`.
          output: one of `OUTPUTS`.

        Returns:
          "logits": (b, num_classes), float32. "pooled": what the head sees, (b, c), float32.
          "stages": what the last block of each stage puts out, (b, h, w, c), for one stage too;
          without a class token, and before the final norm.

        Raises:
          ValueError: for integer images, a size that the stride does not divide, another number
            of tokens than the weights were made for, where they depend on it, or an unknown
            output.
        """
        v = self.variant
        draw = layers.INITS[v.init]
        check_call(images, output)
        h, w = images.shape[1:3]
        if h % v.stride or w % v.stride:
            raise ValueError(f"An image of {h}x{w} pixels {v.not_a_multiple}")

        def norm(x: jax.Array, name: str) -> jax.Array:
            return layers.norm(v.norm, v.norm_eps, 1.0, self.dtype, name)(x)

        patches = layers.patchify(images, v.patch_size).astype(self.dtype)
        grid = patches.shape[1:3]
        x = layers.linear(patches, v.dim, draw.conv, self.dtype, "embed")
        if v.embed_norm:
            x = norm(x, "embed_norm")
        x = self._add_class_token_and_position(x)

        rates = iter(layers.drop_path_rates(v.drop_path, sum(v.depths), v.drop_path_rule))
        # `train` is static: the third argument, self included.
        block = Block
        if self.remat:
            block = nn.remat(Block, static_argnums=(2,))
        elif train and accumulator(self.dtype) != self.dtype:
            block = nn.remat(Block, static_argnums=(2,), policy=keep_least)
        stages, number = [], 0
        for stage, (depth, dim) in enumerate(zip(v.depths, v.dims, strict=True)):
            if stage:
                x = layers.patchify(x, 2)
                if merge := v.downsample == "merge":
                    x = norm(x, f"downsample_norm_{stage}")
                name = f"downsample_{stage}"
                x = layers.linear(x, dim, draw.conv, self.dtype, name, use_bias=not merge)
            for _ in range(depth):
                x = block(v, stage, next(rates), self.dtype, name=f"block_{number:02d}")(x, train)
                number += 1
            # Of a row of tokens the first one is that of the class.
            row = v.pool == "class_token"
            stages.append(x[:, 0, 1:].reshape(-1, *grid, dim) if row else x)

        if output == "stages":
            return tuple(stages)
        if v.final_norm:
            x = norm(x, "final_norm")
        x = x.astype(jnp.float32)
        x = x[:, 0, 0, :] if v.pool == "class_token" else x.mean(axis=(1, 2))
        if output == "pooled":
            return x
        return layers.linear(x, self.num_classes, draw.head, jnp.float32, "head")

    def _add_class_token_and_position(self, x: jax.Array) -> jax.Array:
        """Adds what attention needs, which knows no grid: with a class token tokens are a row.

        (b, h, w, c) becomes (b, 1, 1 + h w, c), the class token first.
        """
        v, normal = self.variant, nn.initializers.normal(layers.INIT_STD)
        b, h, w, c = x.shape
        if v.pool == "class_token":
            token = self.param("class_token", normal, (1, 1, 1, c))
            # Rounded after it is repeated, so that its gradient is summed before it is rounded.
            token = jnp.broadcast_to(token, (b, 1, 1, c)).astype(self.dtype)
            x = jnp.concatenate([token, x.reshape(b, 1, h * w, c)], axis=2)
        if v.position == "learned":
            if self.has_variable("params", "position"):
                made_for = self.get_variable("params", "position").shape
                if made_for != (1, *x.shape[1:]):
                    raise ValueError(
                        f"The position embedding is for {made_for[1] * made_for[2]} tokens, "
                        f"and the image has {x.shape[1] * x.shape[2]}: this model is bound to the "
                        "image size that it was made for."
                    )
            x = add(x, self.param("position", normal, (1, *x.shape[1:])))
        return x


def check_call(images: jax.Array, output: str) -> None:
    """Raises a ValueError if these are no normalised images (b, h, w, channels), or no output."""
    if output not in OUTPUTS:
        raise ValueError(f"Unknown output {output!r}. Allowed are {', '.join(OUTPUTS)}.")
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            "The model expects normalised floating-point images (b, h, w, channels), "
            f"got {images.dtype}{list(images.shape)}."
        )
