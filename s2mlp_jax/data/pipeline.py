"""shuffle -> repeat -> augment -> this process's part -> batch; and padded evaluation.

The order of the training data, random draws included, is a function of (seed, position)
alone: the same for any number of processes and threads, and for a run that was resumed.
"""

import itertools
import typing
from collections.abc import Iterator

import grain
import numpy as np

from s2mlp_jax.data.augment import Crops, decode, eval_view, train_view
from s2mlp_jax.data.sources import Split

Batch = dict[str, np.ndarray]


def train_batches(
    split: Split,
    crops: Crops,
    seed: int,
    batch_size: int,
    positions: np.ndarray,
    repeats: int = 1,
    start_step: int = 0,
    num_threads: int = 16,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Yields this process's part of the global batches, without end.

    Args:
      split: what to read.
      crops: how to augment.
      seed: of the order and of the random views.
      batch_size: of the global batch.
      positions: the positions within the global batch that this process holds.
      repeats: views of each image in a batch (repeated augmentation, arXiv 1901.09335). A batch
        then has so many times fewer images, and its views of one lie far apart in it.
      start_step: batches to pass over; they are skipped, not read.
      num_threads: that read and augment; 0 does all in the calling thread.
      prefetch: batches to prepare ahead; each thread prepares one in any case.

    Yields:
      image (len(positions), image_size, image_size, c) uint8 and label (len(positions),) int32.
    """
    if split.name == "synthetic":
        yield from itertools.repeat(_synthetic_batch(split, positions))

    # Every image of the endless stream, by its place; nothing is read before it is asked for.
    stream = grain.MapDataset.source(split.source).seed(seed).shuffle().repeat()
    local, distinct = len(positions), -(-batch_size // repeats)

    def element(index: int) -> dict[str, typing.Any]:
        step, offset = divmod(index, local)
        position = int(positions[offset])
        record = stream[step * distinct + position % distinct]
        rng = np.random.default_rng((seed, step * batch_size + position))
        return {
            "image": train_view(decode(record, split.channels, split.name), crops, rng),
            "label": np.int32(record["label"]),
        }

    last = len(stream) // batch_size
    elements = grain.MapDataset.range(start_step * local, last * local).map(element)
    yield from _batched(elements, local, num_threads, prefetch)


def eval_batches(
    split: Split, crops: Crops, batch_size: int, positions: np.ndarray, num_threads: int = 16
) -> Iterator[Batch]:
    """Yields this process's part of the global batches of one pass, every image once.

    The last batch is filled up; `mask` is False for what fills it.

    Yields:
      image and label as in `train_batches`, and mask (len(positions),) bool.
    """
    local = len(positions)
    steps = -(-len(split) // batch_size)

    def element(index: int) -> dict[str, typing.Any]:
        step, offset = divmod(index, local)
        position = step * batch_size + int(positions[offset])
        record = split.source[min(position, len(split) - 1)]
        return {
            "image": eval_view(decode(record, split.channels, split.name), crops),
            "label": np.int32(record["label"]),
            "mask": np.bool_(position < len(split)),
        }

    elements = grain.MapDataset.range(steps * local).map(element)
    yield from _batched(elements, local, num_threads, prefetch=2)


def _batched(
    elements: grain.MapDataset, batch_size: int, num_threads: int, prefetch: int
) -> grain.IterDataset:
    """Makes batches in `num_threads` threads, in order, at least `prefetch` ahead."""
    # A thread makes a whole batch, so that it hands over once a batch and not once an image.
    # Fewer batches ahead than threads would leave threads idle.
    ahead = max(prefetch, num_threads) if num_threads else 0
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    return elements.batch(batch_size).to_iter_dataset(options)


def _synthetic_batch(split: Split, positions: np.ndarray) -> Batch:
    records = [split.source[int(i)] for i in positions]
    return {
        "image": np.stack([record["image"] for record in records]),
        "label": np.array([record["label"] for record in records], np.int32),
    }
