"""The paper's Figure 2: a shift pattern and the equivalent depthwise convolution.

All positions are in inches, in axes that fill the page.
"""

import math
import typing
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from s2mlp_jax.models.mixers.depthwise import shift_kernels
from s2mlp_jax.models.spatial_shift import (
    DIRECTIONS,
    PATTERNS,
    check_border,
    group_sizes,
    parse_pattern,
    spatial_shift,
)
from s2mlp_jax.visualize.canvas import COLORS, PALE, QUIET, new_figure, pattern_name

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID = 4  # tokens per side of the small grid that is shifted
_BORDERS = {
    "keep": "keeps its own",
    "zero": "gets zero",
    "circular": "gets the opposite edge's",
}


def shift(pattern: str = "all", border: str = "keep", channels: int = 768) -> "Figure":
    """Draws a shift pattern as the paper's Figure 2 does, with the kernels of section 3.3.

    An arrow goes from a patch to the neighbour that receives its content, in the colour of the
    channel group. Beside it, for each group: the equivalent 3x3 kernel of a depthwise
    convolution, and which token of a small grid each token receives.

    Args:
      pattern: as in `spatial_shift`, or "all" for one page with the paper's (a) to (j).
      border: "keep", "zero" or "circular"; shown for a single pattern only.
      channels: number of channels, which are split into groups.

    Raises:
      ValueError: if the pattern or border is unknown, or there are more groups than channels.
    """
    check_border(border)
    if pattern == "all":
        return _all_patterns(channels)
    return _one_pattern(pattern, border, channels)


def _one_pattern(pattern: str, border: str, channels: int) -> "Figure":
    directions = parse_pattern(pattern)
    sizes = group_sizes(channels, len(directions))
    lines = math.ceil(len(directions) / 4)
    across = math.ceil(len(directions) / lines)
    block, line = 2.0, 3.45  # inches per group
    width, height = max(4.3 + block * across, 8.8), 1.55 + line * lines
    figure, ax = _page(width, height)
    title = f"Shift pattern {_title(pattern)}, border {border}"
    ax.text(0.45, 0.42, title, fontsize=14, va="center")
    _arrows(ax, 0.45, 0.62 + line * lines / 2 - 1.5, 1.0, directions)
    kernels, stops = shift_kernels(pattern), np.cumsum(sizes)
    for i, direction in enumerate(directions):
        x, y = 4.1 + block * (i % across), 0.75 + line * (i // across)
        color = COLORS[i % len(COLORS)]
        middle = x + 0.77
        ax.text(middle, y + 0.1, direction, color=color, ha="center", va="center", weight="bold")
        told = f"{sizes[i]} of {channels} ({stops[i] - sizes[i]} to {stops[i] - 1})"
        ax.text(middle, y + 0.33, told, color=QUIET, fontsize=8, ha="center", va="center")
        _kernel(ax, middle - 0.51, y + 0.5, 0.34, kernels[i], color, numbers=True)
        _received(ax, middle - 0.72, y + 1.7, 0.36, direction, border)
    caption = (
        "Arrows: from the centre patch to the neighbour that receives it; a dot stays.   "
        "3x3: the equal kernel.\n"
        f"{_GRID}x{_GRID}: the token, numbered row by row, that each one receives.   "
        f"Grey: its source lies outside, and it {_BORDERS[border]}."
    )
    ax.text(0.45, height - 0.42, caption, color=QUIET, fontsize=8.5, va="center", linespacing=1.5)
    return figure


def _all_patterns(channels: int) -> "Figure":
    letters = [letter for letter in PATTERNS if letter != "none"]
    across, block, line = 5, 2.75, 4.0
    width, height = 0.35 + across * block, 0.35 + line * math.ceil(len(letters) / across)
    figure, ax = _page(width, height)
    ax.text(0.35, 0.38, "The paper's shift patterns (Figure 2)", fontsize=14, va="center")
    for i, letter in enumerate(letters):
        directions = parse_pattern(letter)
        x, y = 0.35 + block * (i % across), 0.75 + line * (i // across)
        shares = ", ".join(str(n) for n in sorted(set(group_sizes(channels, len(directions)))))
        each = " each" if len(directions) > 1 else ""
        ax.text(x, y + 0.15, f"({letter})", fontsize=12, va="center", weight="bold")
        told = f"{shares} of {channels} channels{each}"
        ax.text(x + 0.4, y + 0.15, told, color=QUIET, fontsize=8.5, va="center")
        _arrows(ax, x, y + 0.35, 0.58, directions)
        for j, (kernel, name) in enumerate(zip(shift_kernels(letter), directions, strict=True)):
            left, top = x + 0.62 * (j % 4), y + 2.3 + 0.78 * (j // 4)
            color = COLORS[j % len(COLORS)]
            ax.text(left + 0.24, top, name, color=color, fontsize=7, ha="center", va="center")
            _kernel(ax, left, top + 0.1, 0.16, kernel, color, numbers=False)
    caption = (
        "Arrows: from the centre patch to the neighbour that receives it, a colour a group of "
        "channels.   Below: the equal 3x3 kernels of a depthwise convolution (section 3.3)."
    )
    ax.text(0.35, height - 0.25, caption, color=QUIET, fontsize=8.5, va="center")
    return figure


def _page(width: float, height: float) -> "tuple[Figure, Axes]":
    figure = new_figure(width, height, constrained=False)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return figure, ax


def _title(pattern: str) -> str:
    directions = parse_pattern(pattern)
    name = f"{pattern_name(pattern)}: " if pattern in PATTERNS else ""
    return name + (" + ".join(directions) if len(directions) < 9 else f"{len(directions)} groups")


def _arrows(ax: "Axes", x: float, y: float, cell: float, directions: Sequence[str]) -> None:
    """Draws 3x3 patches of `cell` inches at (x, y), with arrows from the centre patch."""
    for row in range(3):
        for column in range(3):
            fill = "#f3ecd2" if row == column == 1 else "white"
            _square(ax, x + column * cell, y + row * cell, cell, fill)
    center = np.array([x + 1.5 * cell, y + 1.5 * cell])
    for i, direction in enumerate(directions):
        rows, columns = DIRECTIONS[direction]
        # Arrows with the same direction are drawn side by side.
        same = [j for j, name in enumerate(directions) if name == direction]
        aside = 0.2 * cell * (same.index(i) - (len(same) - 1) / 2)
        color = COLORS[i % len(COLORS)]
        if (rows, columns) == (0, 0):
            place = center + np.array([aside, 0.0])
            ax.plot(*place, "o", color=color, markersize=10 * cell)
            continue
        step = cell * np.array([columns, rows], float)
        across = np.array([-rows, columns]) / math.hypot(rows, columns) * aside
        ax.annotate(
            "",
            xy=tuple(center + across + 1.05 * step),
            xytext=tuple(center + across + 0.22 * step),
            arrowprops={
                "arrowstyle": "-|>",
                "color": color,
                "lw": 3.2 * cell,
                "mutation_scale": 26 * cell,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def _kernel(
    ax: "Axes", x: float, y: float, cell: float, kernel: np.ndarray, color: str, numbers: bool
) -> None:
    for (row, column), value in np.ndenumerate(kernel):
        left, top = x + column * cell, y + row * cell
        _square(ax, left, top, cell, color if value else "white")
        if numbers:
            ink = "white" if value else QUIET
            _number(ax, left, top, cell, f"{value:.0f}", ink, 9.5)


def _received(ax: "Axes", x: float, y: float, cell: float, direction: str, border: str) -> None:
    """Draws the output of `spatial_shift` for a small grid of numbered tokens."""
    numbers = 1.0 + jnp.arange(float(_GRID * _GRID)).reshape(1, _GRID, _GRID, 1)
    got = np.asarray(spatial_shift(numbers, direction, border))[0, :, :, 0]
    outside = np.asarray(spatial_shift(numbers, direction, "zero"))[0, :, :, 0] == 0
    for (row, column), value in np.ndenumerate(got):
        left, top = x + column * cell, y + row * cell
        _square(ax, left, top, cell, PALE if outside[row, column] else "white")
        _number(ax, left, top, cell, f"{value:.0f}", "black", 8.5)


def _square(ax: "Axes", x: float, y: float, cell: float, fill: str) -> None:
    xs, ys = [x, x + cell, x + cell, x], [y, y, y + cell, y + cell]
    ax.fill(xs, ys, facecolor=fill, edgecolor="#555555", lw=0.8)


def _number(
    ax: "Axes", x: float, y: float, cell: float, text: str, color: str, size: float
) -> None:
    ax.text(x + cell / 2, y + cell / 2, text, color=color, fontsize=size, ha="center", va="center")
