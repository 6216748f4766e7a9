"""Receptive fields: which input tokens reach the centre token after each block."""

import typing

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.models import Model, create_model
from s2mlp_jax.models.layers import patchify
from s2mlp_jax.models.mixers import SpatialShift
from s2mlp_jax.models.spatial_shift import DIRECTIONS, check_border, parse_pattern
from s2mlp_jax.train.restore import restore_run
from s2mlp_jax.visualize.canvas import (
    COLORS,
    PALE,
    QUIET,
    evenly,
    new_figure,
    no_ticks,
    outline_tokens,
)
from s2mlp_jax.visualize.subject import Subject, block_outputs, fresh, of_run

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_COLUMNS = 8
_IMAGES = 2  # images of noise, over which the gradient is averaged
_FAINTEST = 1e-6  # relative to the strongest token: the lower end of the colour scale


def receptive_field(
    model: str = "s2mlp_wide",
    shift: str | None = None,
    border: str | None = None,
    depth: int | None = None,
    dim: int | None = None,
    grid: int | None = None,
    seed: int = 0,
    workdir: str = "",
    checkpoint: str = "latest",
) -> "Figure":
    """Draws which input tokens the centre token depends on after 1, 2, ... blocks.

    The upper row is computed from the directions of the shift. The lower row is measured: the
    gradient of the centre token with respect to the image, for images of noise.

    Args:
      model: a name of `list_models()`; its weights are initialized from `seed`.
      shift: shift pattern; the model's own by default.
      border: border of the shift; the model's own by default.
      depth: number of blocks; the model's own by default.
      dim: width in channels; the model's own by default.
      grid: tokens per side; default 14, or the run's own grid.
      seed: seed of weights and noise.
      workdir: folder of a run, to be used instead of an untrained model.
      checkpoint: checkpoint of the run: "latest", "best", or a step.

    Raises:
      ValueError: if a name is unknown or a value is not allowed, fields of an untrained model are
        given with a run, or the run or checkpoint does not exist.
    """
    if grid is not None and grid < 1:
        raise ValueError(f"grid must be at least 1 token, got {grid}.")
    given = {"shift": shift, "border": border, "depth": depth, "dim": dim}
    fields = {name: value for name, value in given.items() if value is not None}
    if workdir:
        if fields:
            raise ValueError(f"A run has its own model: leave out {', '.join(fields)}.")
        restored = restore_run(workdir, checkpoint)
        _check_drawable(restored.run.model)
        subject = of_run(workdir, restored)
        patch = subject.model.variant.patch_size
        size = grid * patch if grid else restored.run.options.data.image_size
    else:
        backbone = create_model(model, 10, **fields)
        _check_drawable(backbone)
        size = (grid or 14) * backbone.variant.patch_size
        subject = fresh(model, backbone, size, 3, seed)
    noise = np.random.default_rng(seed).normal(size=(_IMAGES, size, size, subject.channels))
    return _page(subject, token_gradients(subject.model, subject.variables, noise, seed))


def _check_drawable(model: Model) -> None:
    if model.variant.mixer_as(SpatialShift) is None or len(model.variant.dims) > 1:
        raise ValueError(
            "Receptive fields are drawn of the spatial shift in one stage (token mixer shift); "
            f"this model is a {model.variant.skeleton} with {model.variant.mixer} in "
            f"{len(model.variant.dims)}. For one block of "
            "the others: python -m s2mlp_jax.report relations."
        )


def reachable(pattern: str, border: str, grid: tuple[int, int], blocks: int) -> list[np.ndarray]:
    """Returns which input tokens reach the centre token, block by block.

    An output token of a block depends on the same input token, through the skip connections, and
    on the neighbours from which the shift moves content.

    Args:
      pattern: shift pattern, as in `spatial_shift`.
      border: border, as in `spatial_shift`.
      grid: rows and columns of tokens; the centre is (rows // 2, columns // 2).
      blocks: number of blocks.

    Returns:
      For 1, 2, ... blocks: (rows, columns) bool.

    Raises:
      ValueError: if the pattern or border is unknown.
    """
    check_border(border)
    sources = [DIRECTIONS[direction] for direction in parse_pattern(pattern)]
    seen = np.zeros(grid, bool)
    seen[grid[0] // 2, grid[1] // 2] = True
    fields = []
    for _ in range(blocks):
        places = np.argwhere(seen)
        for move in sources:
            origin = places - np.asarray(move)[None, :]  # content moved by `move` came from here
            if border == "circular":
                origin %= np.asarray(grid)[None, :]
            inside = ((origin >= 0) & (origin < np.asarray(grid)[None, :])).all(axis=1)
            seen[tuple(origin[inside].T)] = True
        fields.append(seen.copy())
    return fields


def token_gradients(
    model: Model, variables: typing.Any, images: np.ndarray, seed: int = 0
) -> list[np.ndarray]:
    """Measures how the centre token depends on each input token, block by block.

    The centre token's channels are summed with random weights, because a plain sum is constant
    after a LayerNorm. The absolute gradient of this sum with respect to the image is summed over
    the pixels and channels of each patch. All is computed in float64: where each branch starts
    at 1e-6, as in the deep model, the gradient through a few branches underflows in float32.

    Args:
      images: (b, height, width, channels), normalised; the result is the mean over the images.
      seed: seed of the random weights.

    Returns:
      For 1, 2, ... blocks: (rows, columns) float64.
    """
    depth, dim, patch = model.variant.depth, model.variant.dim, model.variant.patch_size
    center = images.shape[1] // patch // 2, images.shape[2] // patch // 2
    weights = np.random.default_rng(seed).normal(size=dim)
    # On the CPU: other devices have no float64, or one with the exponent range of float32.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        variables, images = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (variables, images))
        exact = model.clone(dtype=jnp.float64)

        @jax.jit
        def gradients(variables: typing.Any, images: jax.Array) -> jax.Array:
            def center_tokens(images: jax.Array) -> jax.Array:
                _, blocks = block_outputs(exact, variables, images)
                return jnp.stack([tokens[:, center[0], center[1], :] for tokens in blocks])

            tokens, pull_back = jax.vjp(center_tokens, images)

            def after(block: jax.Array) -> jax.Array:
                (gradient,) = pull_back(jnp.zeros_like(tokens).at[block].set(weights[None, :]))
                return jnp.abs(patchify(gradient, patch)).sum(axis=-1).mean(axis=0)

            return jax.lax.map(after, jnp.arange(depth))

        return list(np.asarray(gradients(variables, images)))


def _page(subject: Subject, measured: list[np.ndarray]) -> "Figure":
    variant, grid = subject.model.variant, measured[0].shape
    theory = reachable(variant.field("shift"), variant.field("border"), grid, len(measured))
    shown = evenly(len(measured), _MOST_COLUMNS)
    figure = new_figure(max(1.75 * len(shown) + 1.0, 7.0), 5.2)
    ratios = [*[1.0] * len(shown), 0.06]
    axes = figure.subplots(2, len(shown) + 1, squeeze=False, width_ratios=ratios)
    for column, i in enumerate(shown):
        above, below = axes[0, column], axes[1, column]
        above.imshow(np.where(theory[i], 1.0, np.nan), cmap=_flat(COLORS[0]), vmin=0, vmax=1)
        share = np.where(measured[i] > 0, measured[i] / measured[i].max(), np.nan)
        drawn = below.imshow(share, cmap="viridis", norm="log")
        drawn.set_clim(_FAINTEST, 1.0)
        blocks = f"{i + 1} block" + ("s" if i else "")
        above.set_title(f"{blocks}\n{theory[i].sum()} of {theory[i].size}", fontsize=10)
        below.set_title(f"{(measured[i] > 0).sum()} of {theory[i].size}", fontsize=10)
        for ax in (above, below):
            ax.set_facecolor(PALE)
            no_ticks(ax)
            outline_tokens(ax, *grid)
            ax.plot(grid[1] // 2, grid[0] // 2, "o", color="white", mec="black", ms=4)
    axes[0, 0].set_ylabel("by theory")
    axes[1, 0].set_ylabel("measured")
    axes[0, -1].set_axis_off()
    bar = figure.colorbar(drawn, cax=axes[1, -1])
    bar.set_label("gradient, of the largest", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(
        f"Input tokens that reach the centre token\n{subject.name}; {subject.mixer()}",
        fontsize=12,
    )
    caption = (
        "Numbers: tokens reached, of all; the others are grey.\n"
        "Measured: on noise; the darkest are at the scale's end or below."
    )
    figure.supxlabel(caption, fontsize=8.5, color=QUIET)
    return figure


def _flat(color: str) -> typing.Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([color])
