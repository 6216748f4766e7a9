"""How tokens talk to each other: what differs between the models of one skeleton.

Each mixer is made of a variant and maps tokens (b, h, w, c) to (b, h, w, c). Norms, skips and
drop path around it are the backbone's.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.models.axial_shift import axial_shift
from s2mlp_jax.models.depthwise import depthwise_convolution, shift_as_depthwise
from s2mlp_jax.models.layers import INITS, Draw, Dtype, gelu, linear, norm
from s2mlp_jax.models.precision import accumulator, in_float32, product
from s2mlp_jax.models.spatial_shift import shift_channels, spatial_shift
from s2mlp_jax.models.variant import Variant

# The shift's second version moves the first branch as (a), and the second with the axes swapped.
SPLIT_PATTERNS = {"shift1": "right+left+down+up", "shift2": "down+up+right+left", "identity": ""}


class TokenMixer(nn.Module):
    """What all mixers have; `stage` is that of a pyramid, from 0."""

    variant: Variant
    dtype: Dtype = jnp.float32
    stage: int = 0

    def linear(self, x: jax.Array, features: int, name: str, use_bias: bool = True) -> jax.Array:
        """A linear layer over the channels, drawn as the variant says."""
        draw = INITS[self.variant.init].linear
        return linear(x, features, draw, self.dtype, name, use_bias)


class SpatialShift(TokenMixer):
    """fc1(c -> c), GELU, spatial shift, fc2(c -> c): the upper half of the paper's Figure 1.

    A variable "directions" (c,) in the collection "shift", see `shift_channels`, takes the place
    of the pattern.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        v = self.variant
        x = gelu(self.linear(x, x.shape[-1], "fc_in"))
        if self.has_variable("shift", "directions"):
            x = shift_channels(x, self.get_variable("shift", "directions"), v.border)
        else:
            x = spatial_shift(x, v.shift, v.border)
        return self.linear(x, x.shape[-1], "fc_out")


class Depthwise(TokenMixer):
    """fc1, GELU, a depthwise 3x3 convolution in the shift's place (section 3.3), fc2.

    The convolution has no bias, so that the weights of `shift_as_depthwise` make it the shift.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        v, c = self.variant, x.shape[-1]
        x = gelu(self.linear(x, c, "fc_in"))
        draw = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1))
        if v.depthwise_init == "shift":
            kernel = self.param("kernel", lambda _: jnp.asarray(shift_as_depthwise("a", c)))
        else:
            kernel = self.param("kernel", draw, (3, 3, c))
        x = depthwise_convolution(x, kernel, v.border)
        return self.linear(x, c, "fc_out")


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
                raise ValueError(_other_grid(f"{made_for} tokens", f"{n} tokens"))
        kernel = self.param("kernel", self.draw.kernel(n), (n, self.features))
        bias = self.param("bias", self.draw.bias(n), (self.features,))
        y = product("bnc,nm->bmc", x.astype(self.dtype), kernel) + bias[None, :, None]
        return y.astype(self.dtype)


def _other_grid(made_for: str, got: str) -> str:
    return (
        f"The token-mixing weights are for {made_for}, and the image has {got}: this model is "
        "bound to the image size that it was made for."
    )


class TokenMLP(TokenMixer):
    """MLP-Mixer's: fc(n -> r c), GELU, fc(r c -> n) over the n tokens (arXiv 2105.01601)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        draw = INITS[self.variant.init].linear
        hidden = int(self.variant.token_expansion * c)
        y = OverTokens(hidden, draw, self.dtype, name="fc_in")(x.reshape(b, h * w, c))
        return OverTokens(h * w, draw, self.dtype, name="fc_out")(gelu(y)).reshape(x.shape)


class TokenLinear(TokenMixer):
    """ResMLP's: one linear layer over the tokens (arXiv 2105.03404, equation 2)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        draw = INITS[self.variant.init].linear
        y = OverTokens(h * w, draw, self.dtype, name="fc")(x.reshape(b, h * w, c))
        return y.reshape(x.shape)


class Fusion(TokenMixer):
    """Sums K branches: weighted by split attention, or plainly.

    Split attention (S²-MLPv2, arXiv 2108.01072, Equation 2; ViP): a vector of the image, the mean
    over the tokens of the sum of the branches, gives through two layers, c -> c/4 -> K c, a
    weight for each channel of each branch, by a softmax over the branches.
    """

    use_bias: bool = False

    @nn.compact
    def __call__(self, branches: list[jax.Array]) -> jax.Array:
        """Maps K arrays (b, h, w, c) to one."""
        if self.variant.fusion != "split_attention":
            total = _total(branches)
            return total / len(branches) if self.variant.fusion == "mean" else total
        c, k = branches[0].shape[-1], len(branches)
        wide = accumulator(self.dtype)
        a = _total([x.astype(wide).mean(axis=(1, 2)) for x in branches])
        a = gelu(self.linear(a, c // 4, "fc_in", self.use_bias))
        a = self.linear(a, k * c, "fc_out", self.use_bias).reshape(-1, k, c)
        weights = nn.softmax(a.astype(wide), axis=1)
        return _weighted_sum(branches, [weights[:, i, None, None, :] for i in range(k)])


@in_float32
def _weighted_sum(branches: list[jax.Array], weights: list[jax.Array]) -> jax.Array:
    wide, dtype = accumulator(branches[0].dtype), branches[0].dtype
    parts = [x.astype(wide) * w for x, w in zip(branches, weights, strict=True)]
    return _total(parts).astype(dtype)


def _total(arrays: list[jax.Array]) -> jax.Array:
    return sum(arrays[1:], start=arrays[0])


class SplitShift(TokenMixer):
    """S²-MLPv2's: fc(c -> K c), split, shift each part in its own way, fuse, fc(c -> c)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        v, c = self.variant, x.shape[-1]
        names = v.branch_names
        parts = jnp.split(self.linear(x, len(names) * c, "fc_in"), len(names), axis=-1)
        patterns = [SPLIT_PATTERNS[name] for name in names]
        shifted = [
            spatial_shift(part, pattern, v.border) if pattern else part
            for part, pattern in zip(parts, patterns, strict=True)
        ]
        fused = Fusion(v, self.dtype, name="fusion")(shifted)
        return self.linear(fused, c, "fc_out")


class AxialShift(TokenMixer):
    """AS-MLP's: fc, norm, GELU, the two axial shifts with a layer each, their sum, norm, fc."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        v, c = self.variant, x.shape[-1]

        def normalise(x: jax.Array, name: str) -> jax.Array:
            return norm(v.norm, v.norm_eps, 1.0, self.dtype, name)(x)

        def shifted(x: jax.Array, axis: int, name: str) -> jax.Array:
            moved = axial_shift(x, axis, v.shift_size, v.dilation, v.border)
            return gelu(self.linear(moved, c, name))

        x = gelu(normalise(self.linear(x, c, "fc_in"), "norm_in"))
        y = shifted(x, 2, "fc_width") + shifted(x, 1, "fc_height")
        return self.linear(normalise(y, "norm_out"), c, "fc_out")


class Permute(TokenMixer):
    """ViP's Permute-MLP: layers over (rows, s), (columns, s) and channels (arXiv 2106.12368).

    The channels are n segments of s = c / n; with as many rows and columns as segments, a layer
    over a segment's channels and one axis of the grid has c inputs.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, n, n, c) to (b, n, n, c).

        Raises:
          ValueError: for another grid than the one that the variant is made for.
        """
        b, h, w, c = x.shape
        n = self.variant.segments >> self.stage  # the grid's sides are halved before each stage
        if (h, w) != (n, n):
            raise ValueError(_other_grid(f"{n}x{n} tokens (segments)", f"{h}x{w}"))
        cut = x.reshape(b, h, w, n, c // n)

        def over_axis(axis: int, name: str) -> jax.Array:
            exchanged = jnp.swapaxes(cut, axis, 3)  # that axis beside s, segments in its place
            y = self.linear(exchanged.reshape(b, n, n, c), c, name, use_bias=False)
            return jnp.swapaxes(y.reshape(b, n, n, n, c // n), axis, 3).reshape(x.shape)

        made = {
            "height": lambda: over_axis(1, "fc_height"),
            "width": lambda: over_axis(2, "fc_width"),
            "channel": lambda: self.linear(x, c, "fc_channel", use_bias=False),
        }
        branches = [made[name]() for name in self.variant.branch_names]
        fused = Fusion(self.variant, self.dtype, use_bias=True, name="fusion")(branches)
        return self.linear(fused, c, "fc_out")


class Attention(TokenMixer):
    """Multi-head self-attention over all tokens, with biases (arXiv 2010.11929, appendix A)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        heads = c // self.variant.head_dim
        qkv = self.linear(x, 3 * c, "qkv").reshape(b, h * w, 3, heads, self.variant.head_dim)
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = product("bnhd,bmhd->bhnm", q, k) * self.variant.head_dim**-0.5
        weights = nn.softmax(scores, axis=-1).astype(self.dtype)
        mixed = product("bhnm,bmhd->bnhd", weights, v).astype(self.dtype)
        return self.linear(mixed.reshape(x.shape), c, "fc_out")


MIXERS: dict[str, type[TokenMixer]] = {
    "shift": SpatialShift,
    "depthwise": Depthwise,
    "token_mlp": TokenMLP,
    "token_linear": TokenLinear,
    "split_shift": SplitShift,
    "axial_shift": AxialShift,
    "permute": Permute,
    "attention": Attention,
}


def make(variant: Variant, stage: int, dtype: Dtype, name: str) -> TokenMixer:
    """Returns the mixer of a stage of a variant."""
    return MIXERS[variant.mixer](variant, dtype, stage, name=name)
