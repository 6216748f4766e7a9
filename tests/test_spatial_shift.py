"""The spatial shift against oracles, in its values, its gradient and its receptive field."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2mlp_jax
from s2mlp_jax.models.spatial_shift import (
    BORDERS,
    DIRECTIONS,
    PATTERNS,
    group_sizes,
    parse_pattern,
    spatial_shift,
)

LISTS = ["right+left+down+up+stay", "stay", "up+up-left", "down-right+stay+left"]
ALL_PATTERNS = [*PATTERNS, *LISTS]
GRIDS = [(1, 1), (1, 5), (6, 1), (2, 2), (5, 7), (4, 4)]


def oracle(x: np.ndarray, pattern: str, border: str) -> np.ndarray:
    """The shift, written token by token from its definition."""
    _, height, width, channels = x.shape
    directions = {**PATTERNS}.get(pattern, pattern).split("+")
    groups = np.array_split(np.arange(channels), len(directions))
    y = np.full_like(x, np.nan)
    for group, direction in zip(groups, directions, strict=True):
        rows, cols = DIRECTIONS[direction]
        for i in range(height):
            for j in range(width):
                source = i - rows, j - cols
                inside = 0 <= source[0] < height and 0 <= source[1] < width
                if inside or border == "circular":
                    value = x[:, source[0] % height, source[1] % width][:, group]
                elif border == "keep":
                    value = x[:, i, j][:, group]
                else:
                    value = np.zeros_like(x[:, i, j][:, group])
                y[:, i, j, group[0] : group[-1] + 1] = value
    return y


def random(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randn(*shape).astype(np.float32)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pattern", ALL_PATTERNS)
def test_equals_oracle(pattern: str, border: str) -> None:
    grids = [random(2, height, width, 19) for height, width in GRIDS]  # 19: groups of unequal size
    shift = jax.jit(lambda grids: [spatial_shift(x, pattern, border) for x in grids])
    for x, got in zip(grids, shift(grids), strict=True):
        np.testing.assert_array_equal(got, oracle(x, pattern, border))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pattern", ALL_PATTERNS)
def test_gradient_is_the_adjoint_of_the_oracle(pattern: str, border: str) -> None:
    x, y = random(1, 3, 4, 9), random(2, 3, 4, 9)[1:]
    shift = functools.partial(spatial_shift, pattern=pattern, border=border)
    gradient = jax.jit(lambda x, y: jax.vjp(shift, x)[1](y)[0])(x, y)
    # The oracle is linear: its matrix, transposed, is what backpropagation has to apply.
    basis = np.eye(x.size, dtype=np.float32).reshape(x.size, *x.shape[1:])
    matrix = oracle(basis, pattern, border).reshape(x.size, x.size)
    np.testing.assert_allclose(gradient.ravel(), matrix @ y.ravel(), rtol=1e-6, atol=1e-6)


def test_directions_move_content_where_their_names_say() -> None:
    x = np.zeros((1, 3, 3, 1), np.float32)
    x[0, 1, 1] = 1.0
    target = {
        "right": (1, 2),
        "left": (1, 0),
        "up": (0, 1),
        "down": (2, 1),
        "up-left": (0, 0),
        "up-right": (0, 2),
        "down-left": (2, 0),
        "down-right": (2, 2),
        "stay": (1, 1),
    }
    assert target.keys() == DIRECTIONS.keys()
    for direction, (row, col) in target.items():
        y = spatial_shift(jnp.asarray(x), direction, "zero")
        assert y[0, row, col, 0] == 1.0, direction


def test_pattern_a_is_algorithm_1() -> None:
    """The paper's listing, on its (w, h, c) layout, from a copy of the input."""
    x = random(6, 5, 8)  # w, h, c
    y = x.copy()
    y[1:, :, :2] = x[:-1, :, :2]
    y[:-1, :, 2:4] = x[1:, :, 2:4]
    y[:, 1:, 4:6] = x[:, :-1, 4:6]
    y[:, :-1, 6:] = x[:, 1:, 6:]
    got = spatial_shift(jnp.asarray(x.transpose(1, 0, 2)[None]), "a")
    np.testing.assert_array_equal(got[0].transpose(1, 0, 2), y)


def test_keep_does_not_smear_the_border() -> None:
    """What public ports do: in place, a row is read after it was written."""
    x = random(1, 14, 14, 4)
    y = np.asarray(spatial_shift(jnp.asarray(x), "a"))
    for channel, axis in ((0, 2), (2, 1)):  # the groups that move to larger indices
        lines = np.moveaxis(y[0, :, :, channel], axis - 1, 0)
        assert len({line.tobytes() for line in lines}) == 13  # first two equal, no more


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p != "none"])
def test_equals_depthwise_convolution_in_the_interior(pattern: str) -> None:
    """Section 3.3: the shift is a depthwise 3x3 convolution with one-hot kernels."""
    x = random(2, 6, 7, 16)
    directions = parse_pattern(pattern)
    kernel = np.zeros((3, 3, 1, 16), np.float32)
    groups = np.repeat(directions, group_sizes(16, len(directions)))
    for channel, direction in enumerate(groups):
        rows, cols = DIRECTIONS[direction]
        kernel[1 - rows, 1 - cols, 0, channel] = 1.0
    conv = jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=16,
    )
    for border in BORDERS:
        y = spatial_shift(jnp.asarray(x), pattern, border)
        np.testing.assert_array_equal(y[:, 1:-1, 1:-1], conv[:, 1:-1, 1:-1])
    np.testing.assert_array_equal(spatial_shift(jnp.asarray(x), pattern, "zero"), conv)


@pytest.mark.parametrize(
    ("pattern", "reaches"),
    [
        ("a", lambda row, col, n: abs(row) + abs(col) <= n),
        ("b", lambda row, col, n: max(abs(row), abs(col)) <= n),
        ("e", lambda row, col, n: col == 0 and abs(row) <= n),
        ("f", lambda row, col, n: row == 0 and abs(col) <= n),
        ("j", lambda row, col, n: row == 0 and 0 <= col <= n),
        ("none", lambda row, col, n: row == col == 0),
    ],
)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_receptive_field(pattern: str, reaches, depth: int) -> None:  # noqa: ANN001
    """Which input tokens move the centre token's output after N blocks, by gradient."""
    from s2mlp_jax.models.backbone import Block

    model = s2mlp_jax.create_model(
        "s2mlp_digits", num_classes=2, depth=depth, dim=16, shift=pattern, patch_size=1
    )
    size, centre = 9, 4
    tokens = jnp.asarray(random(1, size, size, 16))
    blocks = [Block(model.variant, 0, 0.0) for _ in range(depth)]
    keys = jax.random.split(jax.random.key(0), depth)
    params = [b.init(k, tokens, train=False) for b, k in zip(blocks, keys, strict=True)]

    def centre_token(tokens: jax.Array) -> jax.Array:
        for block, p in zip(blocks, params, strict=True):
            tokens = block.apply(p, tokens, train=False)
        return tokens[0, centre, centre]

    jacobian = jax.jit(jax.jacrev(centre_token))(tokens)
    touched = np.abs(jacobian[:, 0]).sum(axis=(0, 3)) > 0
    # A token that moves right carries the centre's content away from it: seen from the
    # centre, what arrives comes from the left.
    expected = np.array(
        [[reaches(centre - i, centre - j, depth) for j in range(size)] for i in range(size)]
    )
    np.testing.assert_array_equal(touched, expected)


def test_uneven_groups_differ_by_one() -> None:
    assert group_sizes(64, 5) == (13, 13, 13, 13, 12)
    assert group_sizes(768, 8) == (96,) * 8


def test_works_under_jit_vmap_and_bfloat16() -> None:
    x = jnp.asarray(random(3, 2, 4, 5, 8), jnp.bfloat16)
    y = jax.jit(jax.vmap(lambda x: spatial_shift(x, "b")))(x)
    assert y.dtype == jnp.bfloat16
    for one, expected in zip(y, x, strict=True):
        reference = oracle(np.asarray(expected, np.float32), "b", "keep")
        np.testing.assert_array_equal(np.asarray(one, np.float32), reference)


@pytest.mark.parametrize("pattern", ["k", "", "A", "right+", "right,left", "rigth+left"])
def test_unknown_pattern_lists_what_is_allowed(pattern: str) -> None:
    with pytest.raises(ValueError, match="Allowed are a, b, .*none.*right.*down-right, stay"):
        spatial_shift(jnp.zeros((1, 2, 2, 8)), pattern)


def test_other_bad_arguments() -> None:
    with pytest.raises(ValueError, match="Allowed are keep, zero, circular"):
        spatial_shift(jnp.zeros((1, 2, 2, 8)), "a", "reflect")
    with pytest.raises(ValueError, match="3 channels cannot be cut into 4"):
        spatial_shift(jnp.zeros((1, 2, 2, 3)), "a")
    with pytest.raises(ValueError, match=r"\(b, h, w, c\)"):
        spatial_shift(jnp.zeros((2, 2, 8)), "a")
