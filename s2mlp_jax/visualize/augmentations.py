"""A page of augmented images, one row per operation."""

import pathlib
import random
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from s2mlp_jax import config as config_lib
from s2mlp_jax.data import on_device, randaugment
from s2mlp_jax.data.decoding import decode, read_file
from s2mlp_jax.data.views import draw_view, eval_view, make_view, rotated
from s2mlp_jax.visualize.canvas import new_figure, no_ticks

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 8
_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_images(folder: str) -> list[np.ndarray]:
    """Returns up to eight images (h, w, 3) uint8 of a folder; "" for scikit-learn's two images.

    Raises:
      ValueError: if the folder does not exist or contains no image.
    """
    if not folder:
        from sklearn.datasets import load_sample_images

        return load_sample_images().images
    files = [p for p in sorted(pathlib.Path(folder).glob("*")) if p.suffix.lower() in _SUFFIXES]
    if not files:
        raise ValueError(f"There are no images ({', '.join(_SUFFIXES)}) in the folder {folder!r}.")
    return [
        decode({"image": read_file(path), "index": path.name}, 3, folder)
        for path in files[:_COLUMNS]
    ]


def augment(
    config: ml_collections.ConfigDict, images: Sequence[np.ndarray], seed: int = 0
) -> "Figure":
    """Draws the augmentations of a config: one row per operation, one column per image.

    The rows are the evaluation view, the host's training view, each operation of RandAugment at
    the recipe's magnitude (with alternating sign), then RandAugment, erasing, mixup and cutmix
    as sampled in training, and finally the whole recipe.

    Args:
      config: a completed config of a data set of colour images.
      images: (h, w, 3) uint8 each, any size.
      seed: seed of the random augmentations.

    Raises:
      ValueError: if the config is for images without three channels.
    """
    options = config_lib.to_options(config)
    crops, recipe, mean, std = options.data, options.augment, options.data.mean, options.data.std
    if len(mean) != 3:
        raise ValueError(f"augment draws colour images; data.mean is for {len(mean)} channel(s).")
    fill = [round(255 * value) for value in mean]
    images = [images[i % len(images)] for i in range(_COLUMNS)]
    turned = [rotated(image, crops) for image in images]  # the first operation of training
    seen = jnp.asarray(np.stack([eval_view(image, crops) for image in images]))
    rng = random.Random(seed)
    views = [draw_view(image.shape[0], image.shape[1], crops, rng) for image in turned]
    made = np.empty((_COLUMNS, crops.image_size, crops.image_size, 3), np.uint8)
    for image, view, out in zip(turned, views, made, strict=True):
        make_view(image, view, crops, out)
    train = jnp.asarray(made)
    key = jax.random.key(seed)

    def drawn(images: jax.Array, augmentation: on_device.Augmentation) -> np.ndarray:
        batch = {"image": images, "label": jnp.arange(_COLUMNS)}
        pixels, _ = jax.jit(on_device.training_batch, static_argnums=range(2, 7))(
            key, batch, augmentation, mean, std, _COLUMNS, 0.0
        )
        return np.clip(np.asarray(pixels) * np.asarray(std) + np.asarray(mean), 0, 1)

    rows: dict[str, typing.Any] = {"evaluation": seen, "training crop, flip": train}
    level = jnp.full(_COLUMNS, recipe.randaugment_magnitude)
    negate = jnp.arange(_COLUMNS) % 2 == 1
    apply = jax.jit(
        lambda operation: randaugment.apply_operations(seen, operation, level, negate, fill)
    )
    for i, name in enumerate(randaugment.OPERATIONS):
        rows[name] = apply(jnp.full(_COLUMNS, i))
    rows["RandAugment"] = drawn(seen, recipe.only(randaugment_ops=recipe.randaugment_ops))
    rows["erasing, each image"] = drawn(seen, recipe.only(erasing_prob=1.0))
    rows["mixup"] = drawn(seen, recipe.only(mixup_alpha=recipe.mixup_alpha))
    rows["cutmix"] = drawn(seen, recipe.only(cutmix_alpha=recipe.cutmix_alpha))
    rows["the whole recipe"] = drawn(train, recipe)
    return _page(rows)


def _page(rows: dict[str, typing.Any]) -> "Figure":
    height, width = next(iter(rows.values())).shape[1:3]
    figure = new_figure(1.1 * _COLUMNS + 2, 1.1 * len(rows) * height / width, constrained=False)
    axes = figure.subplots(len(rows), _COLUMNS, squeeze=False)
    for (name, images), line in zip(rows.items(), axes, strict=True):
        for image, ax in zip(np.asarray(images), line, strict=True):
            ax.imshow(image, interpolation="nearest")
            no_ticks(ax)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.subplots_adjust(
        left=0.17, right=0.995, top=0.995, bottom=0.005, wspace=0.04, hspace=0.04
    )
    return figure
