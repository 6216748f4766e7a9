"""Products and sums that accumulate in float32, forward and backward, whatever the compute dtype.

The gradient of a bias or a scale is a sum over all tokens of a batch, a hundred thousand terms of
ordinary training. bfloat16 has 8 bits of significand: a running sum in it stops growing once it is
some 256 times its terms. So parameters enter the computation in float32, here, and what is rounded
to the compute dtype is a result, never a sum on its way.

In float32 and float64 these functions are the plain operations they are named after.
"""

import functools
import math
import typing

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


def accumulator(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """Returns the dtype in which values of a dtype are summed: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def product(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `jnp.einsum(equation, x, kernel)`, accumulated in float32 and not rounded after.

    The kernel is rounded to x's dtype before, and so is the gradient that comes back. The kernel's
    own gradient is a sum over tokens; it comes out of the accumulator as it is.

    Args:
      equation: of two operands, such as "nc,cm->nm"; each index is in at least two of the terms.
      x: in the compute dtype.
      kernel: parameters in float32, or other activations.

    Returns:
      An array of dtype `accumulator(x.dtype)`.
    """
    if accumulator(x.dtype) == x.dtype:
        return jnp.einsum(equation, x, kernel.astype(x.dtype))
    return _low_product(equation, x, kernel)


def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns a convolution, accumulated and rounded as in `product`.

    Args:
      x: (b, h, w, c) in the compute dtype.
      kernel: (k, k, c, features) in float32, k odd. The border is padded with (k - 1) / 2 zeros.

    Returns:
      (b, h / stride, w / stride, features), rounded up, of dtype `accumulator(x.dtype)`.
    """
    if accumulator(x.dtype) == x.dtype:
        return _convolve(x, kernel.astype(x.dtype), stride)
    return _low_convolution(x, kernel, stride)


class _Operation(typing.Protocol):
    """A product of two arrays of the same dtype."""

    def __call__(
        self, x: jax.Array, y: jax.Array, *, preferred_element_type: jnp.dtype | None = None
    ) -> jax.Array: ...


def _accumulate(operation: _Operation, x: jax.Array, y: jax.Array) -> jax.Array:
    """Applies an operation to x and to y in x's dtype, with its sums and result in float32."""
    wide = accumulator(x.dtype)

    def widened(x: jax.Array, y: jax.Array) -> jax.Array:
        # XLA's CPU compiler cannot run every product of bfloat16 with a result in float32
        # ("Unsupported element type for DotThunk"). In float32 the factors are the same numbers.
        return operation(x.astype(wide), y.astype(wide))

    def mixed(x: jax.Array, y: jax.Array) -> jax.Array:
        return operation(x, y, preferred_element_type=wide)

    return jax.lax.platform_dependent(x, y.astype(x.dtype), cpu=widened, default=mixed)


def _einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return _accumulate(functools.partial(jnp.einsum, equation), x, y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _low_product(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _einsum(equation, x, kernel)


_Kept = tuple[jax.Array, jax.Array]  # x and the kernel


def _product_forward(equation: str, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Kept]:
    return _einsum(equation, x, kernel), (x, kernel)


def _product_backward(equation: str, kept: _Kept, gradient: jax.Array) -> _Kept:
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    operands, result = equation.split("->")
    left, right = operands.split(",")
    of_x = _einsum(f"{result},{right}->{left}", gradient, kernel)
    of_kernel = _einsum(f"{left},{result}->{right}", x, gradient)
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_low_product.defvjp(_product_forward, _product_backward)


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    preferred_element_type: jnp.dtype | None = None,
) -> jax.Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=preferred_element_type,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _low_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _accumulate(functools.partial(_convolve, stride=stride), x, kernel)


def _convolution_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, _Kept]:
    return _low_convolution(x, kernel, stride), (x, kernel)


def _convolution_backward(stride: int, kept: _Kept, gradient: jax.Array) -> _Kept:
    """Two convolutions, those that jax makes of a convolution of one dtype."""
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    # The gradient stands on every `stride`-th token; the far side is padded by what makes the
    # results as large as x and the kernel are.
    ends = [
        (length, (steps - 1) * stride + 1)
        for length, steps in zip(x.shape[1:3], gradient.shape[1:3], strict=True)
    ]
    over_features = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding=[(size - 1 - pad, length - end + pad) for length, end in ends],
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )
    over_tokens = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding=[(pad, size - 1 - pad + end - length) for length, end in ends],
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )
    of_x = _accumulate(over_features, gradient, jnp.flip(kernel, (0, 1)))
    of_kernel = _accumulate(over_tokens, x, gradient)
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_low_convolution.defvjp(_convolution_forward, _convolution_backward)


# Below float32 a block keeps for its backward pass only what `keep` marks: the outputs of its
# layers and skips, and the statistics of its norms. All else (GELU, shift, normalised values) is
# computed again from these, element by element, which takes less memory traffic than reading it.
_KEPT = "kept"
keep = functools.partial(checkpoint_name, name=_KEPT)
keep_least = jax.checkpoint_policies.save_only_these_names(_KEPT)

# What is computed in float32 inside is not kept for the backward pass: only the arguments are, a
# token map in the compute dtype. Converting it again costs nothing, as XLA does it in passing.
in_float32 = functools.partial(jax.checkpoint, prevent_cse=False)


@in_float32
def scale_and_add(x: jax.Array, scale: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Returns x * scale + bias, rounded once.

    Args:
      x: in the compute dtype.
      scale: float32, with as many axes as x; axes of length 1 are broadcast.
      bias: float32, shaped like scale; None adds nothing.
    """
    y = x.astype(accumulator(x.dtype)) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def add(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns x + bias in x's dtype, rounded once; arguments as in `scale_and_add`."""
    return (x.astype(accumulator(x.dtype)) + bias).astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """Returns x * Phi(x), the exact GELU, which the papers write; computed in float32.

    Flax defaults to the tanh form, and writes the exact one with erfc, which takes a CPU twice as
    long as erf. The two agree to rounding in float32; in bfloat16 1 + erf would lose the small
    values of negative x.
    """
    wide = x.astype(accumulator(x.dtype))
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...], eps: float
) -> jax.Array:
    """Returns (x - mean) / sqrt(variance + eps) * scale + bias, rounded once.

    The variance is mean((x - mean)²). The backward pass takes mean and deviation from the forward
    pass, and needs two sums of its own where automatic differentiation makes three.

    Args:
      x: in the compute dtype.
      scale: (1, ..., 1, c) in float32, with as many axes as x.
      bias: as `scale`.
      axes: that mean and variance are taken over, the last one among them.
    """
    return _normalize_forward(x, scale, bias, axes, eps)[0]


_Normalized = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # x, scale, mean, 1 / deviation


def _normalize_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...], eps: float
) -> tuple[jax.Array, _Normalized]:
    wide = x.astype(accumulator(x.dtype))
    mean = keep(wide.mean(axes, keepdims=True))
    inverse = keep(jax.lax.rsqrt(jnp.square(wide - mean).mean(axes, keepdims=True) + eps))
    y = (wide - mean) * inverse * scale + bias
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _normalize_backward(
    axes: tuple[int, ...], eps: float, kept: _Normalized, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = kept
    wide = gradient.astype(mean.dtype)
    normal = (x.astype(mean.dtype) - mean) * inverse
    scaled = wide * scale
    along = (scaled * normal).mean(axes, keepdims=True)
    of_x = inverse * (scaled - scaled.mean(axes, keepdims=True) - normal * along)
    tokens = tuple(range(x.ndim - 1))
    of_scale, of_bias = (y.sum(tokens, keepdims=True) for y in (wide * normal, wide))
    return of_x.astype(x.dtype), of_scale, of_bias


normalize.defvjp(_normalize_forward, _normalize_backward)
