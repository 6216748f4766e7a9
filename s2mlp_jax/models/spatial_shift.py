"""The spatial shift of S²-MLP (arXiv 2106.07477, section 3.3, Algorithm 1).

A *pattern* is an ordered list of directions. The channels are cut into as many
groups, and each group is moved one token in its own direction. There are no
parameters; the linear layers around the shift do the mixing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.checks import shown

# name -> (rows, columns) by which the content moves.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "right": (0, 1),
    "left": (0, -1),
    "down": (1, 0),
    "up": (-1, 0),
    "up-left": (-1, -1),
    "up-right": (-1, 1),
    "down-left": (1, -1),
    "down-right": (1, 1),
    "stay": (0, 0),
}

# The letters of the paper's Figure 2 and Table 7. The group order of (a) is that of
# Equation 3; for (b) to (f) the paper gives none, so they keep (a)'s order.
PATTERNS: dict[str, str] = {
    "a": "right+left+down+up",
    "b": "right+left+down+up+up-left+up-right+down-left+down-right",
    "c": "right+up",
    "d": "left+down",
    "e": "down+up",
    "f": "right+left",
    "g": "up",
    "h": "down",
    "i": "left",
    "j": "right",
    "none": "stay",
}

BORDERS: tuple[str, ...] = ("keep", "zero", "circular")


def parse_pattern(pattern: str) -> tuple[str, ...]:
    """Returns the directions of a pattern, one per channel group, in order.

    Args:
      pattern: a letter of the paper ("a" to "j"), "none", or directions joined by "+".

    Raises:
      ValueError: if the pattern is neither; the message lists what is allowed.
    """
    directions = tuple(PATTERNS.get(pattern, pattern).split("+"))
    unknown = [name for name in directions if name not in DIRECTIONS]
    if unknown:
        raise ValueError(
            f"Unknown shift pattern {shown(pattern)} (not understood: {shown(unknown)[1:-1]}). "
            f"Allowed are {', '.join(PATTERNS)}, or directions joined by '+' "
            f"out of {', '.join(DIRECTIONS)}."
        )
    return directions


def check_border(border: str) -> None:
    """Raises a ValueError that lists what is allowed if `border` is not a border rule."""
    if border not in BORDERS:
        raise ValueError(f"Unknown border {border!r}. Allowed are {', '.join(BORDERS)}.")


def group_sizes(channels: int, groups: int) -> tuple[int, ...]:
    """Cuts `channels` into `groups` contiguous parts whose sizes differ by at most one.

    The larger parts come first. The paper's own patterns divide evenly at its widths;
    five groups of 384 channels do not, and there the rest is spread.

    Raises:
      ValueError: if there are fewer channels than groups.
    """
    if channels < groups:
        raise ValueError(f"{channels} channels cannot be cut into {groups} shift groups.")
    size, rest = divmod(channels, groups)
    return tuple(size + (i < rest) for i in range(groups))


def check_pattern(pattern: str, channels: int, fraction: float = 1.0) -> None:
    """Checks that `spatial_shift` can shift so many channels.

    Raises:
      ValueError: unknown pattern, a fraction that is not in (0, 1], or more groups than channels
        that move.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"shift_fraction must be in (0, 1], got {fraction}.")
    moved, groups = moved_channels(channels, fraction), len(parse_pattern(pattern))
    if moved < groups:
        part = f": shift_fraction {fraction} of {channels}" if fraction < 1 else ""
        raise ValueError(f"{moved} channels cannot be cut into {groups} shift groups{part}.")


def moved_channels(channels: int, fraction: float) -> int:
    """Returns how many channels a fraction of them is, rounded to the nearest integer."""
    return round(fraction * channels)


def _shift_group(x: jax.Array, direction: str, border: str) -> jax.Array:
    """Moves all channels of `x` (b, h, w, c) one token in one direction."""
    rows, cols = DIRECTIONS[direction]
    if (rows, cols) == (0, 0):
        return x
    moved = jnp.roll(x, (rows, cols), axis=(1, 2))
    if border == "circular":
        return moved
    # Tokens whose source lies outside the grid.
    height, width = x.shape[1:3]
    source_row = np.arange(height)[:, None] - rows
    source_col = np.arange(width)[None, :] - cols
    outside = (source_row < 0) | (source_row >= height) | (source_col < 0) | (source_col >= width)
    instead = x if border == "keep" else jnp.zeros_like(x)
    return jnp.where(outside[None, :, :, None], instead, moved)


def spatial_shift(
    x: jax.Array, pattern: str = "a", border: str = "keep", fraction: float = 1.0
) -> jax.Array:
    """Shifts channel groups by one token each (Equation 3 and Algorithm 1 of the paper).

    Out of place: an in-place version overwrites what it still has to read and smears the
    border row over the grid. Group by group: the gradient then costs what the forward
    pass costs; picking from rolls of all channels costs up to seven times that on a CPU
    (`results/spatial_shift.md`).

    Args:
      x: (b, h, w, c); h counts rows from the top, w columns from the left.
      pattern: see `parse_pattern`. "right" moves content to the larger column index,
        "up" to the smaller row index.
      border: what a token gets whose source lies outside the grid: "keep" its own value
        (Algorithm 1), "zero", or "circular", the token at the opposite edge.
      fraction: part of the channels, in (0, 1], that the pattern moves; the others stay, and come
        last. ShiftViT (arXiv 2201.10801) moves a third of them, in the order left, right, up,
        down, with a border of zeros.

    Returns:
      (b, h, w, c), same dtype.

    Raises:
      ValueError: unknown pattern or border, a fraction that is not allowed, more groups than
        channels that move, or x not 4-D.
    """
    check_border(border)
    if x.ndim != 4:
        raise ValueError(f"spatial_shift expects (b, h, w, c), got shape {x.shape}.")
    check_pattern(pattern, x.shape[-1], fraction)
    directions = parse_pattern(pattern)
    moved = moved_channels(x.shape[-1], fraction)
    cuts = np.cumsum(group_sizes(moved, len(directions)))
    parts = jnp.split(x, cuts[cuts < x.shape[-1]], axis=-1)
    if len(parts) > len(directions):  # the last part stays
        directions = (*directions, "stay")
    shifted = [_shift_group(part, d, border) for part, d in zip(parts, directions, strict=True)]
    return jnp.concatenate(shifted, axis=-1)


def directions_of_channels(pattern: str, channels: int, fraction: float = 1.0) -> np.ndarray:
    """Returns each channel's direction as its number in `DIRECTIONS`, (c,) int32.

    Raises:
      ValueError: as `check_pattern` does.
    """
    check_pattern(pattern, channels, fraction)
    directions, moved = parse_pattern(pattern), moved_channels(channels, fraction)
    names = [*directions, "stay"]
    sizes = [*group_sizes(moved, len(directions)), channels - moved]
    return np.repeat([list(DIRECTIONS).index(name) for name in names], sizes).astype(np.int32)


def shift_channels(x: jax.Array, directions: jax.Array, border: str = "keep") -> jax.Array:
    """Shifts each channel in a direction of its own: `spatial_shift` with the pattern as data.

    With it, models with different patterns are one program. It computes all nine shifts of all
    channels and selects, which costs more than shifting groups.

    Args:
      x: (b, h, w, c).
      directions: (c,), from `directions_of_channels`.
      border: as in `spatial_shift`.
    """
    check_border(border)
    shifted = x
    for number, name in enumerate(DIRECTIONS):
        here = (directions == number)[None, None, None, :]
        shifted = jnp.where(here, _shift_group(x, name, border), shifted)
    return shifted
