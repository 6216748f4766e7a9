"""The spatial shift against a plain copy and other implementations.

    python -m benchmarks.spatial_shift --output=results/spatial_shift.md

Pattern (a), border "keep". All candidates give the same output and the same gradient, which is
checked before timing. The copy is a multiplication: it reads and writes every element, which is
the minimum for a shift. The convolution is a depthwise 3x3 convolution with a single 1 in each
kernel. Its input is padded with its own edge, one token on each side. As nothing moves by more
than one token, a token whose source lies outside the grid then receives its own value, which is
the border "keep".

The backward pass is the jitted vjp. The shift is linear, so it contains no forward pass.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from s2mlp_jax import spatial_shift

Shift = Callable[[jax.Array], jax.Array]

SHAPES = ((32, 14, 14, 384), (32, 14, 14, 768))  # S²-MLP-deep and -wide at 224 pixels
# (relative, absolute); a gradient is a sum of at most two values and may differ by 1 ulp.
TOLERANCE = {"float32": (1e-6, 1e-6), "bfloat16": (2**-7, 2**-7)}
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # (rows, columns) of right, left, down, up


def copy(x: jax.Array) -> jax.Array:
    """Reads and writes every element; the factor differs from 1 in bfloat16 too."""
    return x * jnp.asarray(1 + 2**-7, x.dtype)


def full_roll(x: jax.Array, one_mask: bool = False) -> jax.Array:
    """Rolls all channels in each direction; selects by border and channel, with one mask or two."""
    group = np.arange(x.shape[-1]) * 4 // x.shape[-1]
    out = x
    for i, step in enumerate(STEPS):
        rolled = jnp.roll(x, step, axis=(1, 2))
        if one_mask:
            out = jnp.where(inside(x, step) & (group == i), rolled, out)
        else:
            out = jnp.where(group == i, jnp.where(inside(x, step), rolled, x), out)
    return out


def inside(x: jax.Array, step: tuple[int, int]) -> np.ndarray:
    """Returns whether the source of each token lies inside the grid, (h, w, 1) bool."""
    row, col = np.arange(x.shape[1]) - step[0], np.arange(x.shape[2]) - step[1]
    rows, cols = (row >= 0) & (row < x.shape[1]), (col >= 0) & (col < x.shape[2])
    return (rows[:, None] & cols)[:, :, None]


def at_set(x: jax.Array) -> jax.Array:
    """The paper's Algorithm 1, where all reads are from the input."""
    right, left, down, up = jnp.split(x, 4, axis=-1)
    q = x.shape[-1] // 4
    out = x.at[:, :, 1:, :q].set(right[:, :, :-1])
    out = out.at[:, :, :-1, q : 2 * q].set(left[:, :, 1:])
    out = out.at[:, 1:, :, 2 * q : 3 * q].set(down[:, :-1])
    return out.at[:, :-1, :, 3 * q :].set(up[:, 1:])


def slices(x: jax.Array) -> jax.Array:
    """Concatenates each group from its border and its shifted rest."""
    right, left, down, up = jnp.split(x, 4, axis=-1)
    right = jnp.concatenate([right[:, :, :1], right[:, :, :-1]], axis=2)
    left = jnp.concatenate([left[:, :, 1:], left[:, :, -1:]], axis=2)
    down = jnp.concatenate([down[:, :1], down[:, :-1]], axis=1)
    up = jnp.concatenate([up[:, 1:], up[:, -1:]], axis=1)
    return jnp.concatenate([right, left, down, up], axis=-1)


def depthwise(x: jax.Array) -> jax.Array:
    """A depthwise 3x3 convolution whose kernels pick one neighbour each."""
    channels = x.shape[-1]
    kernel = np.zeros((3, 3, 1, channels), np.float32)
    for (rows, cols), group in zip(STEPS, np.split(np.arange(channels), 4), strict=True):
        kernel[1 - rows, 1 - cols, 0, group] = 1.0
    return jax.lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"),
        jnp.asarray(kernel, x.dtype),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
        precision=jax.lax.Precision.HIGHEST,  # a GPU would round float32 to TF32
    )


CANDIDATES: dict[str, Shift] = {
    "ours": spatial_shift,
    "copy": copy,
    "full roll": full_roll,
    "full roll, one mask": functools.partial(full_roll, one_mask=True),
    ".at[].set": at_set,
    "slices and concatenate": slices,
    "depthwise convolution": depthwise,
}


def backward(shift: Shift) -> Callable[[jax.Array], Any]:
    """Returns a jitted function from a cotangent to the gradient."""
    return jax.jit(lambda cotangent: jax.vjp(shift, cotangent)[1](cotangent)[0])


def compare(shape: tuple[int, ...], dtype: str, rounds: int) -> str:
    """Checks and measures all candidates at one size; returns the table."""
    x = jax.random.normal(jax.random.key(0), shape, dtype)
    passes: dict[str, dict[str, Callable[[jax.Array], Any]]] = {
        "forward": {name: jax.jit(shift) for name, shift in CANDIDATES.items()},
        "backward": {name: backward(shift) for name, shift in CANDIDATES.items()},
    }
    rows: list[list[str]] = [[name] for name in CANDIDATES]
    for which, functions in passes.items():
        expected = np.asarray(functions["ours"](x), np.float32)
        for name in functions.keys() - {"copy"}:
            got = np.asarray(functions[name](x), np.float32)
            np.testing.assert_allclose(got, expected, *TOLERANCE[dtype], err_msg=f"{which}, {name}")
        measurements = {name: common.seconds(function, x) for name, function in functions.items()}
        figures = common.alternate(measurements, rounds)
        for row, name in zip(rows, CANDIDATES, strict=True):
            row.append(common.milliseconds(figures[name]))
            row += [common.ratio(figures[name], figures[other]) for other in ("ours", "copy")]
    columns = [f"{p} {c}" for p in passes for c in ("ms", "/ ours", "/ copy")]
    return f"## {'x'.join(map(str, shape))}, {dtype}\n\n" + common.table(["", *columns], rows)


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=30)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    notes = (
        f"Medians over {args.rounds} rounds, each of which measures every candidate once; the "
        "inter-quartile range is in brackets. Ratios are medians of the ratios per round. "
        + common.keep_memory()
    )
    top = common.header("Spatial shift")  # before the work, to report the load of others
    tables = [compare(shape, args.dtype, args.rounds) for shape in SHAPES]
    common.publish([top, notes, *tables], args.output)


if __name__ == "__main__":
    main()
