"""Sets that live in the devices' memory: which do, how they are loaded, and their training views.

The host then sends a few numbers per step, which records to use, instead of images.
"""

import dataclasses
import typing
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.data.order import record_order
from s2mlp_jax.data.pipeline import Batch, batch_places, eval_batches, train_batches
from s2mlp_jax.data.split import Split
from s2mlp_jax.progress import human_size
from s2mlp_jax.rng import stream_key

# Part of a device's memory that a set may take; the rest is for the model.
_PART = 8
_UNKNOWN_MEMORY = 8 * 2**30  # assumed for devices that do not tell


class Place(typing.NamedTuple):
    """Where the images are during training.

    Attributes:
      on_device: in the devices' memory, or on the host, which sends every batch.
      why: the reason, for the log.
    """

    on_device: bool
    why: str


def choose_place(
    data: DataOptions, splits: tuple[Split, Split], memory: int | None, processes: int
) -> Place:
    """Decides where the images are, by `data.place`.

    Args:
      splits: for training and for evaluation.
      memory: bytes that a program may use on one device; None if unknown.
      processes: number of processes that train together.

    Raises:
      ValueError: for "device", if it is not possible; the message has the reason.
    """
    if data.place == "host":
        return Place(False, "on the host, by data.place")
    images = sum(map(len, splits))
    size = images * data.image_size**2 * splits[0].channels
    known = memory or _UNKNOWN_MEMORY
    has = f"the {human_size(memory)} of a device" if memory else "a device of unknown memory"
    obstacle = ""
    if data.train_crop == "random_resized":
        obstacle = "random resized crops are made there"
    elif splits[0].constant:
        obstacle = "the batch of noise repeats"
    elif processes > 1:
        obstacle = f"{processes} processes train together"
    elif size > known // _PART and (data.place == "auto" or size > known):
        part = f"1/{_PART} of " if data.place == "auto" else ""
        obstacle = f"{images:,} images are {human_size(size)}, more than {part}{has}"
    if obstacle and data.place == "device":
        raise ValueError(
            f"data.place=device is not possible: {obstacle.replace('there', 'on the host')}. "
            "Take data.place=auto."
        )
    if obstacle:
        return Place(False, f"on the host: {obstacle}")
    return Place(True, f"in device memory: {images:,} images, {human_size(size)}")


def load_training(split: Split, data: DataOptions) -> Batch:
    """Returns all images in their order, at the size of a view but without crop and flip.

    Returns:
      What `train_batches` yields, as one batch.

    Raises:
      BrokenImageError: as `train_batches` does.
    """
    still = dataclasses.replace(data, train_crop="resize", flip=0.0)
    everything = train_batches(
        split,
        still,
        seed=0,
        batch_size=len(split),
        positions=np.arange(len(split)),
        num_threads=data.num_threads,
        prefetch=0,
        on_corrupt=data.on_corrupt,
    )
    shuffled = next(everything)
    order = np.argsort(record_order(len(split), seed=0)(np.arange(len(split))))
    return {name: array[order] for name, array in shuffled.items()}


def load_evaluation(split: Split, data: DataOptions, batch_size: int) -> Batch:
    """Returns the batches of `eval_batches`, stacked: (batches, batch_size, ...)."""
    positions = np.arange(batch_size)
    batches = eval_batches(
        split, data, batch_size, positions, data.num_threads, data.prefetch, data.on_corrupt
    )
    return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)


class StepRecords:
    """The records that steps train on, as in `train_batches`."""

    def __init__(self, length: int, seed: int, batch_size: int, repeats: int) -> None:
        self._order = record_order(length, seed)
        self._places = batch_places(batch_size, repeats)
        self._distinct = -(-batch_size // repeats)

    def __call__(self, step: int, count: int) -> np.ndarray:
        """Returns the records of `count` steps after `step`, (count, batch_size) int32."""
        places = np.arange(step * self._distinct, (step + count) * self._distinct)
        return self._order(places).reshape(count, self._distinct)[:, self._places]


def views_of_records(
    key: jax.Array, images: jax.Array, records: jax.Array, padding: int, flip: float
) -> jax.Array:
    """Makes the training views of a batch, on the device.

    Each image is cropped at random from itself with `padding` black pixels around it, and flipped
    with probability `flip`; the distribution is that of `views.draw_view`.

    Args:
      key: key of this step. Random draws depend on it and on the position in the batch.
      images: (n, size, size, c) uint8, the whole set.
      records: (b,) int, the images of the batch.

    Returns:
      (b, size, size, c) uint8.
    """
    count = len(records)
    where, mirror = jax.random.split(stream_key(key, "views"))
    shift = jax.random.randint(where, (count, 2), 0, 2 * padding + 1) - padding
    flips = jax.random.bernoulli(mirror, flip, (count,))
    return crop_records(images, records, shift, flips)


def crop_records(
    images: jax.Array, records: jax.Array, shift: jax.Array, flips: jax.Array
) -> jax.Array:
    """Moves the frame of images by `shift` (b, 2), down and right, and flips where `flips` (b,)."""
    size = images.shape[1]
    along = jnp.arange(size)[None, :]
    rows = along + shift[:, :1]
    columns = jnp.where(flips[:, None], size - 1 - along, along) + shift[:, 1:]
    # Indices beyond the image wrap or stop at its edge; the pixels are masked.
    taken = images[records[:, None, None], rows[:, :, None], columns[:, None, :]]
    inside_rows, inside_columns = ((x >= 0) & (x < size) for x in (rows, columns))
    inside = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
    return jnp.where(inside, taken, 0)


def batch_of_records(
    key: jax.Array, whole: Mapping[str, jax.Array], records: jax.Array, data: DataOptions
) -> dict[str, jax.Array]:
    """Returns a training batch from the whole set, on the device; arguments as above."""
    padding = data.crop_padding if data.train_crop == "pad" else 0
    batch = {name: array[records] for name, array in whole.items() if name != "image"}
    if padding or data.flip:
        image = views_of_records(key, whole["image"], records, padding, data.flip)
    else:
        image = whole["image"][records]
    return {"image": image, **batch}
