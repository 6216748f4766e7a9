"""The spatial shift of S²-MLP (arXiv 2106.07477, section 3.3, Algorithm 1).

A *pattern* is an ordered list of directions. The channels are cut into as many
groups, and each group is moved one token in its own direction. There are no
parameters; the linear layers around the shift do the mixing.
"""

import jax
import jax.numpy as jnp
import numpy as np

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
    """Returns the directions of a pattern, one a channel group, in order.

    Args:
      pattern: a letter of the paper ("a" to "j"), "none", or directions joined by "+".

    Raises:
      ValueError: if the pattern is neither; the message lists what is allowed.
    """
    directions = tuple(PATTERNS.get(pattern, pattern).split("+"))
    unknown = [name for name in directions if name not in DIRECTIONS]
    if unknown:
        raise ValueError(
            f"Unknown shift pattern {pattern!r} (not understood: {', '.join(map(repr, unknown))}). "
            f"Allowed are {', '.join(PATTERNS)}, or directions joined by '+' "
            f"out of {', '.join(DIRECTIONS)}."
        )
    return directions


def check_border(border: str) -> None:
    """Raises a ValueError that lists what is allowed if `border` is not a border rule."""
    if border not in BORDERS:
        raise ValueError(f"Unknown border {border!r}. Allowed are {', '.join(BORDERS)}.")


def group_sizes(channels: int, groups: int) -> tuple[int, ...]:
    """Cuts `channels` into `groups` contiguous parts that differ by one at the most.

    The larger parts come first. The paper's own patterns divide evenly at its widths;
    five groups of 384 channels do not, and there the rest is spread.

    Raises:
      ValueError: if there are fewer channels than groups.
    """
    if channels < groups:
        raise ValueError(f"{channels} channels cannot be cut into {groups} shift groups.")
    size, rest = divmod(channels, groups)
    return tuple(size + (i < rest) for i in range(groups))


def _shift_group(x: jax.Array, direction: str, border: str) -> jax.Array:
    """Moves all channels of `x` (b, h, w, c) one token in one direction."""
    rows, cols = DIRECTIONS[direction]
    if (rows, cols) == (0, 0):
        return x
    moved = jnp.roll(x, (rows, cols), axis=(1, 2))
    if border == "circular":
        return moved
    # A token whose source lies outside the grid has nothing to receive.
    height, width = x.shape[1:3]
    source_row = np.arange(height)[:, None] - rows
    source_col = np.arange(width)[None, :] - cols
    outside = (source_row < 0) | (source_row >= height) | (source_col < 0) | (source_col >= width)
    instead = x if border == "keep" else jnp.zeros_like(x)
    return jnp.where(outside[None, :, :, None], instead, moved)


def spatial_shift(x: jax.Array, pattern: str = "a", border: str = "keep") -> jax.Array:
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

    Returns:
      (b, h, w, c), same dtype.

    Raises:
      ValueError: unknown pattern or border, more groups than channels, or x not 4-D.
    """
    directions = parse_pattern(pattern)
    check_border(border)
    if x.ndim != 4:
        raise ValueError(f"spatial_shift expects (b, h, w, c), got shape {x.shape}.")
    sizes = group_sizes(x.shape[-1], len(directions))
    groups = jnp.split(x, np.cumsum(sizes)[:-1], axis=-1)
    shifted = [_shift_group(g, d, border) for g, d in zip(groups, directions, strict=True)]
    return jnp.concatenate(shifted, axis=-1)


def directions_of_channels(pattern: str, channels: int) -> np.ndarray:
    """Returns each channel's direction as its number in `DIRECTIONS`, (c,) int32.

    Raises:
      ValueError: unknown pattern, or more groups than channels.
    """
    directions = parse_pattern(pattern)
    numbers = [list(DIRECTIONS).index(direction) for direction in directions]
    return np.repeat(np.array(numbers, np.int32), group_sizes(channels, len(directions)))


def shift_channels(x: jax.Array, directions: jax.Array, border: str = "keep") -> jax.Array:
    """Shifts each channel in a direction of its own: `spatial_shift` with the pattern as data.

    So models of several patterns can be one program. It makes all nine shifts of all channels
    and picks, which costs more than shifting groups.

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
