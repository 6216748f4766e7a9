"""Functions and colours that all pictures share: figures, images, token grids, files."""

import pathlib
import typing

import numpy as np

from s2mlp_jax.escape import printable

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS: tuple[str, ...] = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, safe for colour-blind readers; olive replaces their yellow, which is
# too bright for thin lines, and a ninth colour is added.
COLORS: tuple[str, ...] = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999933",
    "#882255",
)
QUIET = "#666666"  # text beside the picture
PALE = "#e4e4e4"  # missing values


def new_figure(width: float, height: float, constrained: bool = True) -> "Figure":
    """Returns an empty picture.

    Args:
      width: width in inches.
      height: height in inches.
      constrained: use matplotlib's constrained layout, which makes room for titles and labels.

    Raises:
      ModuleNotFoundError: if matplotlib is not installed.
    """
    from s2mlp_jax.visualize.picture import Picture

    figure = Picture(figsize=(width, height))
    if constrained:
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure


def check_output(path: str) -> None:
    """Checks that a picture can be written to a path.

    Raises:
      ValueError: if the ending is not in `FORMATS`, or the folder does not exist.
    """
    file = pathlib.Path(path)
    if file.suffix.lower() not in FORMATS:
        raise ValueError(
            f"A picture cannot be written as {path!r}. Allowed endings are {', '.join(FORMATS)}."
        )
    if not file.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {str(file.parent)!r} to write {file.name!r} into.")


def save(figure: "Figure", path: str) -> None:
    """Writes a picture as PNG, SVG or PDF, depending on the file's ending.

    Raises:
      ValueError: as `check_output` does.
    """
    check_output(path)
    figure.savefig(path, dpi=150)


def show_image(ax: "Axes", image: np.ndarray) -> None:
    """Fills axes with an image (h, w, c) uint8, or (h, w, 3) in [0, 1]; one channel is grey."""
    if image.shape[-1] == 1:
        ax.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        ax.imshow(image, interpolation="nearest")
    no_ticks(ax)


def no_ticks(ax: "Axes") -> None:
    """Removes the ticks and the frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def outline_tokens(ax: "Axes", rows: int, columns: int, color: str = "white") -> None:
    """Draws a grid of rows x columns cells over an image that fills the axes."""
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    style: dict[str, typing.Any] = {"color": color, "lw": 0.5, "alpha": 0.7}
    ax.hlines(np.linspace(bottom, top, rows + 1)[1:-1], left, right, **style)
    ax.vlines(np.linspace(left, right, columns + 1)[1:-1], bottom, top, **style)


def pattern_name(pattern: str) -> str:
    """Returns "(a)" for a letter of the paper; returns any other pattern unchanged."""
    return f"({pattern})" if len(pattern) == 1 else pattern


def shorten(name: str, most: int = 16) -> str:
    """Shortens a long name of a class in the middle, where names differ least; makes it a label."""
    keep, name = (most - 1) // 2, printable(name)
    name = name if len(name) <= most else f"{name[: most - 1 - keep]}…{name[-keep:]}"
    return name.replace("$", r"\$")  # no formula


def evenly(count: int, most: int) -> list[int]:
    """Returns at most `most` evenly spaced numbers from 0 to count - 1, both included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})
