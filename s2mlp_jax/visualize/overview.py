"""One picture of the method: the block, the spatial shift, and the receptive field."""

import typing

import numpy as np

from s2mlp_jax.models.spatial_shift import DIRECTIONS, parse_pattern
from s2mlp_jax.visualize.canvas import COLORS, PALE, QUIET, new_figure
from s2mlp_jax.visualize.receptive_fields import reachable

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 12.6, 4.3  # inches; all positions are in inches from the upper left corner
_LAYERS = (
    ("Linear\nc → c", "GELU", "spatial\nshift", "Linear\nc → c", "norm"),
    (
        "Linear\nc → 4c",
        "GELU",
        "Linear\n4c → c",
        "norm",
    ),
)
_GRID = 5  # tokens per side of the shift grids
_FIELD = 11  # tokens per side of the receptive fields


def overview() -> "Figure":
    """Draws a block (the paper's Figure 1), shift pattern (a), and its receptive field."""
    figure = new_figure(_WIDTH, _HEIGHT, constrained=False)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set(xlim=(0, _WIDTH), ylim=(_HEIGHT, 0))
    ax.set_axis_off()
    _block(ax, 0.35, 1.2)
    _title(ax, 0.35, 2.12, "Spatial shift (a): each quarter of the channels moves one patch")
    for i, direction in enumerate(parse_pattern("a")):
        _shift(ax, 0.35 + 1.45 * i, 2.4, direction, COLORS[i])
    _title(ax, 6.75, 2.12, "What the centre patch sees: a diamond that grows with depth")
    for i, field in enumerate(reachable("a", "keep", (_FIELD, _FIELD), 4)):
        _field(ax, 6.75 + 1.45 * i, 2.4, field, i + 1)
    return figure


def _title(ax: "Axes", x: float, y: float, text: str) -> None:
    ax.text(x, y, text, fontsize=10.5, va="center")


def _block(ax: "Axes", x: float, y: float) -> None:
    """Draws the layers from left to right, with the two skip connections above them."""
    _title(
        ax,
        x,
        0.28,
        "A block, N times: patches mix in the spatial shift alone, which has no parameters",
    )
    height, gap = 0.62, 0.24
    ax.text(x, y, "tokens\n14 x 14 x c", fontsize=8.5, va="center", color=QUIET)
    place = x + 1.05
    for layers in _LAYERS:
        start = place - 0.1
        for i, name in enumerate(layers):
            width = 0.92 if "Linear" in name else 0.74
            shifts = "shift" in name
            fill = COLORS[0] if shifts else "#f3ecd2" if "Linear" in name else "white"
            _arrow(ax, place - (0.1 if i else 0.2), y, place + gap - 0.1)
            left, right = place + gap - 0.08, place + gap - 0.08 + width
            top, bottom = y - height / 2, y + height / 2
            ax.fill(
                [left, right, right, left], [top, top, bottom, bottom],
                facecolor=fill, edgecolor="#555555", lw=0.8,
            )  # fmt: skip
            ink = "white" if shifts else "black"
            ax.text((left + right) / 2, y, name, fontsize=9, ha="center", va="center", color=ink)
            place = right + 0.1
        plus = place + gap
        _arrow(ax, place - 0.1, y, plus - 0.1)
        ax.plot([start, start, plus, plus], [y, y - 0.55, y - 0.55, y - 0.1], color=QUIET, lw=1.2)
        ax.plot(plus, y, "o", ms=13, mfc="white", mec="#555555")
        ax.text(plus, y, "+", fontsize=11, ha="center", va="center")
        place = plus + 0.3
    _arrow(ax, place - 0.2, y, place + 0.18)


def _arrow(ax: "Axes", start: float, y: float, stop: float) -> None:
    style = {"arrowstyle": "-|>", "color": "#555555", "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=(stop, y), xytext=(start, y), arrowprops=style)


def _shift(ax: "Axes", x: float, y: float, direction: str, color: str) -> None:
    """Draws a grid with an arrow from its centre to the token that receives its content."""
    rows, columns = DIRECTIONS[direction]
    center = _GRID // 2
    fills = np.full((_GRID, _GRID), "white", object)
    fills[center, center] = "#f3ecd2"
    fills[center + rows, center + columns] = color
    cell = _cells(ax, x, y, fills)
    middle = np.array([x, y]) + cell * (center + 0.5)
    step = cell * np.array([columns, rows])
    style = {"arrowstyle": "-|>", "color": "black", "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=tuple(middle + 0.95 * step), xytext=tuple(middle), arrowprops=style)
    _label(ax, x, y, direction, color)


def _field(ax: "Axes", x: float, y: float, field: np.ndarray, blocks: int) -> None:
    """Draws which patches reach the centre patch after `blocks` blocks."""
    fills = np.where(field, COLORS[0], PALE).astype(object)
    fills[_FIELD // 2, _FIELD // 2] = "black"
    _cells(ax, x, y, fills)
    _label(ax, x, y, f"{blocks} block{'s' if blocks > 1 else ''}: {field.sum()}", QUIET)


def _cells(ax: "Axes", x: float, y: float, fills: np.ndarray) -> float:
    """Draws a square of cells, 1.2 inches wide; returns the size of a cell in inches."""
    cell = 1.2 / len(fills)
    for (row, column), fill in np.ndenumerate(fills):
        left, top = x + column * cell, y + row * cell
        xs, ys = [left, left + cell, left + cell, left], [top, top, top + cell, top + cell]
        ax.fill(xs, ys, facecolor=fill, edgecolor="#777777", lw=0.6)
    return cell


def _label(ax: "Axes", x: float, y: float, text: str, color: str) -> None:
    ax.text(x + 0.6, y + 1.4, text, fontsize=9.5, ha="center", va="center", color=color)
