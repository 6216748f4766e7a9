"""The outputs of the blocks for one image."""

import functools
import typing

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.decoding import BrokenImageError, read_pixels
from s2mlp_jax.data.on_device import normalize
from s2mlp_jax.data.views import eval_view
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.restore import restore_run
from s2mlp_jax.visualize.canvas import (
    QUIET,
    evenly,
    new_figure,
    no_ticks,
    outline_tokens,
    shorten,
    show_image,
)
from s2mlp_jax.visualize.predictions import eval_image
from s2mlp_jax.visualize.subject import Subject, block_outputs, fresh, of_run

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BLOCKS = 6
_CAPTION = (
    "Above: the first three principal components of a block's tokens as red, green and blue, each "
    "stretched to its full range, and their part of the variance.\n"
    "Alike tokens have alike colours within a block; from block to block colours mean nothing.   "
    "Below: how far each token is from their mean, bright: far."
)


def features(
    workdir: str = "",
    checkpoint: str = "latest",
    config: ml_collections.ConfigDict | None = None,
    image: str = "",
    index: int = 0,
) -> "Figure":
    """Draws the outputs of the blocks for one image: all blocks, or six evenly spaced ones.

    Args:
      workdir: folder of a run; "" for the initial weights of the config.
      checkpoint: checkpoint of the run: "latest", "best", or a step.
      config: required without a run; with a run, as in `restore_run`.
      image: path of an image file, which is resized and cropped as in evaluation.
      index: index of an image of the evaluation split; used if `image` is "".

    Raises:
      ValueError: if neither a run nor a config is given, or the run, checkpoint, file, index or
        data set does not exist.
    """
    run: Experiment | None = None  # opens the data, which initial weights do not need
    if workdir:
        restored = restore_run(workdir, checkpoint, config)
        run, config, subject = restored.run, restored.run.config, of_run(workdir, restored)
        options = run.options
    elif config is not None:
        config = config_lib.complete(config)
        options = config_lib.to_options(config)
        size, channels = options.data.image_size, len(options.data.mean)
        subject = fresh(options.model.name, options.make_model(1), size, channels, options.seed)
    else:
        raise ValueError("Features are of a run or of a config: give a workdir or a config.")
    if image:
        pixels = eval_view(_load(image, subject.channels), options.data)
        said = []
    else:
        run = run or create_experiment(config, for_training=False)
        pixels, label = eval_image(run, index)
        said = [f"index {index}", f"true: {shorten(run.eval_split.class_names[label])}"]
    outputs = jax.jit(functools.partial(block_outputs, subject.model))
    pixel_batch = normalize(jnp.asarray(pixels)[None], options.data.mean, options.data.std)
    logits, blocks = jax.device_get(outputs(subject.variables, pixel_batch))
    if workdir and run is not None:
        probability = np.asarray(jax.nn.softmax(logits[0]))
        best = int(np.argmax(probability))
        said.append(f"says: {shorten(run.eval_split.class_names[best])}, {probability[best]:.0%}")
    tokens = [np.asarray(block[0], np.float32) for block in blocks]
    return _page(subject, pixels, "\n".join(said), tokens)


def principal_colors(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps tokens to colours by their first three principal components.

    Args:
      tokens: (h, w, c).

    Returns:
      Colours (h, w, 3) in [0, 1], and the components' shares of the variance (3,). A missing or
      constant component has colour 0.5 and share 0.
    """
    h, w, c = tokens.shape
    flat = tokens.reshape(h * w, c).astype(np.float64)
    flat -= flat.mean(axis=0, keepdims=True)
    left, sizes, _ = np.linalg.svd(flat, full_matrices=False)
    colors, shares = np.full((h * w, 3), 0.5), np.zeros(3)
    for i in range(min(3, len(sizes))):
        if sizes[i] <= 1e-9 * max(sizes[0], 1e-30):
            break
        score = left[:, i]
        score = score * np.sign(score[np.argmax(np.abs(score))])  # the sign is arbitrary
        colors[:, i] = (score - score.min()) / (score.max() - score.min())
        shares[i] = sizes[i] ** 2 / (sizes**2).sum()
    return colors.reshape(h, w, 3), shares


def _load(path: str, channels: int) -> np.ndarray:
    try:
        return read_pixels(path, channels)
    except BrokenImageError as error:
        raise ValueError(f"No image can be read from {path!r}: {error.reason}.") from error


def _page(subject: Subject, pixels: np.ndarray, said: str, tokens: list[np.ndarray]) -> "Figure":
    shown = evenly(len(tokens), _MOST_BLOCKS)
    rows, columns = tokens[0].shape[:2]
    figure = new_figure(max(2.0 * (len(shown) + 1) + 0.2, 8.4), 5.7)
    axes = figure.subplots(2, len(shown) + 1, squeeze=False)
    show_image(axes[0, 0], pixels)
    outline_tokens(axes[0, 0], rows, columns)
    axes[0, 0].set_title(f"input, {rows}x{columns} tokens\n", fontsize=9.5)
    axes[1, 0].set_axis_off()
    axes[1, 0].text(0.5, 0.5, said, ha="center", va="center", transform=axes[1, 0].transAxes)
    for column, i in enumerate(shown, start=1):
        above, below = axes[0, column], axes[1, column]
        colors, shares = principal_colors(tokens[i])
        above.imshow(colors, interpolation="nearest")
        parts = " + ".join(f"{share:.0%}" for share in shares)
        above.set_title(f"block {i + 1}\n{parts}", fontsize=9.5)
        mean = tokens[i].mean(axis=(0, 1), keepdims=True)
        distance = np.linalg.norm(tokens[i] - mean, axis=-1)
        below.imshow(distance, cmap="viridis", interpolation="nearest")
        below.set_title(f"{distance.min():.3g} to {distance.max():.3g}", fontsize=9.5)
        for ax in (above, below):
            no_ticks(ax)
    title = f"What the blocks put out: {subject.name}; {subject.mixer()}"
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(_CAPTION, fontsize=8, color=QUIET)
    return figure
