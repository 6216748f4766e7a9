"""On the device, in jit: turns a batch of uint8 images and labels into the model's inputs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from s2mlp_jax.checks import Range, check_fields
from s2mlp_jax.data.randaugment import MAX_LEVEL, rand_augment
from s2mlp_jax.rng import stream_key

# Rectangles drawn per image for random erasing; the first that fits into the image is used.
_ERASING_TRIES = 10

_Probability = Annotated[float, Range("[0, 1]")]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images on the device, after the host's crop and flip.

    Attributes:
      randaugment_ops: operations per image, 0 for none.
      randaugment_magnitude: mean level, 0 to 10.
      randaugment_magnitude_std: standard deviation of the level, drawn for every operation.
      randaugment_prob: probability with which a drawn operation is applied.
      erasing_prob: probability that a rectangle of an image is replaced by noise.
      erasing_area_min: area of the smallest rectangle, as a fraction of the image.
      erasing_area_max: area of the largest rectangle, as a fraction of the image.
      erasing_aspect_min: smallest height / width; the largest is its inverse.
      mixup_alpha: the weight of an image is drawn from Beta(alpha, alpha); 0 for no mixup.
      cutmix_alpha: the same for the area that an image keeps; 0 for no cutmix.
      mix_prob: probability that a batch is mixed.
      mix_switch_prob: probability that a mixed batch uses cutmix, if both are on.

    Raises:
      ValueError: at construction, if a field's value is not allowed.
    """

    randaugment_ops: Annotated[int, Range("[0, 100]")]
    randaugment_magnitude: Annotated[float, Range(f"[0, {MAX_LEVEL:g}]")]
    randaugment_magnitude_std: Annotated[float, Range("[0, 100]")]
    randaugment_prob: _Probability
    erasing_prob: _Probability
    erasing_area_min: Annotated[float, Range("(0, 1]")]
    erasing_area_max: Annotated[float, Range("(0, 1]")]
    erasing_aspect_min: Annotated[float, Range("[0.001, 1]")]
    mixup_alpha: Annotated[float, Range("[0, 1000]")]
    cutmix_alpha: Annotated[float, Range("[0, 1000]")]
    mix_prob: _Probability
    mix_switch_prob: _Probability

    def __post_init__(self) -> None:
        check_fields("augment.", self)
        if self.erasing_area_min > self.erasing_area_max:
            raise ValueError(
                f"augment.erasing_area_min {self.erasing_area_min} is greater than "
                f"augment.erasing_area_max {self.erasing_area_max}."
            )

    def only(self, **on: float) -> "Augmentation":
        """Returns a copy with all augmentations off, then these fields set."""
        off = {"randaugment_ops": 0, "erasing_prob": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
        return dataclasses.replace(self, **{**off, **on})  # type: ignore[arg-type]

    @property
    def mixes(self) -> bool:
        """True if any batch is mixed."""
        return self.mix_prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


def training_batch(
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    augmentation: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    label_smoothing: float,
) -> tuple[jax.Array, jax.Array]:
    """Augments a global batch, in DeiT's order: RandAugment, normalise, erase, mix.

    Args:
      key: key of this step. Random draws depend on it and on the position in the batch.
      batch: image (b, h, w, c) uint8 and label (b,) int.
      mean: (c,) mean of pixels in [0, 1].
      std: (c,) standard deviation of pixels in [0, 1].

    Returns:
      Images (b, h, w, c) float32, and targets (b, num_classes), each summing to one.
    """
    a, images = augmentation, batch["image"]
    if a.randaugment_ops:
        images = rand_augment(
            stream_key(key, "randaugment"),
            images,
            a.randaugment_ops,
            a.randaugment_magnitude,
            a.randaugment_magnitude_std,
            a.randaugment_prob,
            fill=[round(255 * value) for value in mean],
        )
    images = normalize(images, mean, std)
    if a.erasing_prob:
        images = erase(stream_key(key, "erasing"), images, a)
    targets = smooth_labels(batch["label"], num_classes, label_smoothing)
    if a.mixes:
        images, targets = mix(stream_key(key, "mix"), images, targets, a)
    return images, targets


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Maps uint8 images (b, h, w, c) to (x / 255 - mean) / std in float32."""
    shape = (1, 1, 1, len(mean))
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32)).reshape(shape)
    offset = (jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)).reshape(shape)
    return images.astype(jnp.float32) * scale - offset


def smooth_labels(labels: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Maps labels (b,) to targets (b, num_classes): one-hot, mixed with uniform."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)


def _within(start: jax.Array, stop: jax.Array, size: int) -> jax.Array:
    """(b,) and (b,) -> (b, size): mask of the positions in [start, stop)."""
    place = jnp.arange(size)[None, :]
    return (place >= start[:, None]) & (place < stop[:, None])


def _box(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """(b, h) and (b, w) -> (b, h, w, 1): mask of the pixels in both."""
    return rows[:, :, None, None] & columns[:, None, :, None]


def erase(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """Random erasing in pixel mode (arXiv 1708.04896): a rectangle becomes normal noise.

    Args:
      images: (b, h, w, c), normalised.
    """
    a = augmentation
    b, h, w, _ = images.shape
    keys = jax.random.split(key, 6)
    tries = (b, _ERASING_TRIES)
    low, high = a.erasing_area_min, a.erasing_area_max
    area = h * w * jax.random.uniform(keys[0], tries, minval=low, maxval=high)
    log_aspect = math.log(a.erasing_aspect_min)
    aspect = jnp.exp(jax.random.uniform(keys[1], tries, minval=log_aspect, maxval=-log_aspect))
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < h) & (widths < w)
    first = jnp.argmax(fits, axis=1, keepdims=True)
    height, width = (jnp.take_along_axis(x, first, axis=1)[:, 0] for x in (heights, widths))
    erased = fits.any(axis=1) & jax.random.bernoulli(keys[2], a.erasing_prob, (b,))

    def place(key: jax.Array, room: jax.Array) -> jax.Array:
        """Draws an integer from 0 to `room`, inclusive."""
        return jnp.floor(jax.random.uniform(key, (b,)) * (room + 1)).astype(jnp.int32)

    top, left = place(keys[3], h - height), place(keys[4], w - width)
    box = _box(_within(top, top + height, h), _within(left, left + width, w))
    box &= erased[:, None, None, None]
    return jnp.where(box, jax.random.normal(keys[5], images.shape), images)


def mix(
    key: jax.Array, images: jax.Array, targets: jax.Array, augmentation: Augmentation
) -> tuple[jax.Array, jax.Array]:
    """Mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899), one draw for the whole batch.

    An image is mixed with its neighbour: images 0 and 1 with each other, 2 and 3, and so on.
    The order of a batch is random, so all pairings are equally good, and with this one both images
    of a pair are on the same device.

    Args:
      images: (b, h, w, c), b even.
      targets: (b, num_classes).
    """
    a = augmentation
    _, h, w, _ = images.shape
    keys = jax.random.split(key, 5)
    cut = jnp.asarray(a.cutmix_alpha > 0)
    if a.mixup_alpha > 0 and a.cutmix_alpha > 0:
        cut = jax.random.bernoulli(keys[0], a.mix_switch_prob)
    alpha = jnp.where(cut, a.cutmix_alpha, a.mixup_alpha)
    kept = jax.random.beta(keys[1], alpha, alpha)  # weight of the image itself
    kept = jnp.where(jax.random.bernoulli(keys[2], a.mix_prob), kept, 1.0)

    # Cutmix: a box of that area around a random centre, clipped to the image.
    def edges(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        half = (size * jnp.sqrt(1.0 - kept)).astype(jnp.int32) // 2
        center = jax.random.randint(key, (), 0, size)
        return jnp.clip(center - half, 0, size)[None], jnp.clip(center + half, 0, size)[None]

    (top, bottom), (left, right) = edges(keys[3], h), edges(keys[4], w)
    box = _box(_within(top, bottom, h), _within(left, right, w))
    weight = jnp.where(cut, jnp.where(box, 0.0, 1.0), kept)  # (1, h, w, 1)
    kept = jnp.where(cut, 1.0 - ((bottom - top) * (right - left))[0] / (h * w), kept)
    images = images * weight + _neighbours(images) * (1.0 - weight)
    return images, targets * kept + _neighbours(targets) * (1.0 - kept)


def _neighbours(x: jax.Array) -> jax.Array:
    """Swaps items 0 and 1, 2 and 3, ... of the batch."""
    pairs = x.reshape(x.shape[0] // 2, 2, *x.shape[1:])
    return pairs[:, ::-1].reshape(x.shape)
