"""Batches for training (shuffle, repeat, augment, take this process's part) and evaluation.

The order of the training data and all random draws depend only on (seed, position): they are
the same for any number of processes and threads, and in a resumed run.
"""

import collections
import concurrent.futures
import functools
import itertools
import math
import random
import typing
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from s2mlp_jax.data.decoding import BrokenImageError
from s2mlp_jax.data.order import record_order
from s2mlp_jax.data.sources import Split
from s2mlp_jax.data.views import Crops, read_eval_view, train_views
from s2mlp_jax.progress import say

Batch = dict[str, np.ndarray]
Record = dict[str, typing.Any]
# One batch: its arrays, not filled yet, and the jobs that fill them, in any order.
_Work = tuple[Batch, list[Callable[[], None]]]
_Made = typing.TypeVar("_Made")

_IMAGES_PER_JOB = 16  # at most; handing over single small images costs more than making them


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
    on_corrupt: str = "stop",
) -> Iterator[Batch]:
    """Yields this process's part of the global batches, without end.

    Args:
      split: split to read.
      crops: how to augment.
      seed: seed of the order and of the random views.
      batch_size: size of the global batch.
      positions: the positions within the global batch that this process holds.
      repeats: views of each image in a batch (repeated augmentation, arXiv 1901.09335). A batch
        then has `repeats` times fewer images. The views of an image lie far apart in the batch,
        each next to a different image (`batch_places`). An image is decoded once for all of its
        views that this process holds.
      start_step: number of batches to skip, without reading them.
      num_threads: threads that read and augment, each a few images of a batch at a time; 0 does
        everything in the calling thread.
      prefetch: batches in progress, or waiting in memory, while the caller uses another.
      on_corrupt: "stop" raises; "skip" replaces a broken record by the next readable one.

    Yields:
      image (len(positions), image_size, image_size, c) uint8 and label (len(positions),) int32;
      with "skip" also corrupt (len(positions),) bool, True where a record was replaced.

    Raises:
      BrokenImageError: a broken image, with its record; all earlier batches were yielded.
    """
    order = record_order(len(split), seed)
    distinct = -(-batch_size // repeats)
    views: dict[int, list[int]] = {}  # the image's place in the batch -> its rows here
    for row, place in enumerate(batch_places(batch_size, repeats)[positions]):
        views.setdefault(int(place), []).append(row)
    read = _Reader(split, on_corrupt)

    def fill(batch: Batch, step: int, places: tuple[int, ...]) -> None:
        # Read all records first: decoding in between would evict this code from the CPU caches.
        records = [split.source[i] for i in order(step * distinct + np.array(places)).tolist()]
        for place, asked in zip(places, records, strict=True):
            rows = views[place]
            numbers = [step * batch_size + int(positions[row]) for row in rows]

            def make(record: Record, rows: list[int] = rows, numbers: list[int] = numbers) -> None:
                rngs = [random.Random((seed << 64) + number) for number in numbers]
                outs = [batch["image"][row] for row in rows]
                train_views(record, split.channels, split.name, crops, rngs, outs)

            record, _ = read(asked, make)
            for row in rows:
                batch["label"][row] = record["label"]
                if on_corrupt == "skip":
                    batch["corrupt"][row] = record is not asked

    def work(step: int) -> _Work:
        flags = ("corrupt",) if on_corrupt == "skip" else ()
        batch = _empty_batch(len(positions), crops.image_size, split.channels, flags)
        return batch, [functools.partial(fill, batch, step, p) for p in _jobs(views, num_threads)]

    if split.constant:
        (batch,) = _prefetched(map(work, [0]), num_threads, prefetch)
        yield from itertools.repeat(batch)
    yield from _prefetched(map(work, itertools.count(start_step)), num_threads, prefetch)


def eval_batches(
    split: Split,
    crops: Crops,
    batch_size: int,
    positions: np.ndarray,
    num_threads: int = 16,
    prefetch: int = 2,
    on_corrupt: str = "stop",
) -> Iterator[Batch]:
    """Yields this process's part of the global batches of one pass, every image once.

    The last batch is padded; `mask` is False for the padding.

    Args:
      on_corrupt: "stop" raises; "skip" masks out a broken image.
      split: as in `train_batches`.
      crops: as in `train_batches`.
      batch_size: as in `train_batches`.
      positions: as in `train_batches`.
      num_threads: as in `train_batches`.
      prefetch: as in `train_batches`.

    Yields:
      image and label as in `train_batches`, and mask (len(positions),) bool; with "skip" also
      corrupt, True for the broken images that the mask excludes.

    Raises:
      BrokenImageError: a broken image, with its record.
    """
    read = _Reader(split, on_corrupt)

    def make(record: Record) -> np.ndarray:
        return read_eval_view(record, split.channels, split.name, crops)

    def fill(batch: Batch, step: int, rows: tuple[int, ...]) -> None:
        for row in rows:
            position = step * batch_size + int(positions[row])
            inside = position < len(split)
            asked = split.source[min(position, len(split) - 1)]
            record, batch["image"][row] = read(asked, make)
            batch["label"][row] = record["label"]
            batch["mask"][row] = inside and record is asked
            if on_corrupt == "skip":
                batch["corrupt"][row] = inside and record is not asked

    def work(step: int) -> _Work:
        flags = ("mask", "corrupt") if on_corrupt == "skip" else ("mask",)
        batch = _empty_batch(len(positions), crops.image_size, split.channels, flags)
        jobs = _jobs(range(len(positions)), num_threads)
        return batch, [functools.partial(fill, batch, step, rows) for rows in jobs]

    steps = range(-(-len(split) // batch_size))
    yield from _prefetched(map(work, steps), num_threads, prefetch)


def batch_places(batch_size: int, repeats: int) -> np.ndarray:
    """Returns the index of the image at each position of a batch, (batch_size,).

    A batch is a sequence of copies of its images. Mixup and cutmix mix neighbours, so each copy
    has the images in another stride, coprime to their number: the views of an image are then mixed
    with different images. In the same order, all would be mixed with the same image.
    """
    distinct = -(-batch_size // repeats)
    # A stride and its negative give the same neighbours, so half of the strides are enough.
    coprime = (n for n in range(1, distinct // 2 + 1) if math.gcd(n, distinct) == 1)
    strides = list(itertools.islice(coprime, repeats)) or [1]
    copy, place = np.divmod(np.arange(batch_size), distinct)
    return place * np.take(strides, copy, mode="wrap") % distinct


class _Reader:
    """Applies a function to a record; "skip" replaces a broken record by the next readable one."""

    def __init__(self, split: Split, on_corrupt: str) -> None:
        self._split, self._on_corrupt = split, on_corrupt
        self._told: set[int] = set()

    def __call__(self, asked: Record, make: Callable[[Record], _Made]) -> tuple[Record, _Made]:
        """Returns the record that was used and the result."""
        record = asked
        for ahead in range(1, len(self._split) + 1):
            try:
                return record, make(record)
            except BrokenImageError as error:
                if self._on_corrupt == "stop":
                    raise
                if record["index"] not in self._told:
                    self._told.add(record["index"])
                    say(f"Left out. {error}", every_process=True)
            record = self._split.source[(asked["index"] + ahead) % len(self._split)]
        raise BrokenImageError(f"{self._split.name} has no image that can be read.")


def _empty_batch(size: int, image_size: int, channels: int, flags: tuple[str, ...]) -> Batch:
    return {
        "image": np.empty((size, image_size, image_size, channels), np.uint8),
        "label": np.empty(size, np.int32),
        **{flag: np.empty(size, bool) for flag in flags},
    }


def _jobs(items: Iterable[int], num_threads: int) -> list[tuple[int, ...]]:
    """Splits a batch's items into parts for the threads."""
    items = tuple(items)
    size = min(_IMAGES_PER_JOB, -(-len(items) // max(num_threads, 1)))
    return [items[i : i + size] for i in range(0, len(items), size)]


def _prefetched(works: Iterator[_Work], num_threads: int, prefetch: int) -> Iterator[Batch]:
    """Yields the batches in order, filled by `num_threads` threads, `prefetch` batches ahead."""
    if num_threads == 0:
        for batch, jobs in works:
            for job in jobs:
                job()
            yield batch
        return
    pool = concurrent.futures.ThreadPoolExecutor(num_threads, "data")
    ahead: collections.deque[tuple[Batch, list[concurrent.futures.Future[None]]]]
    ahead = collections.deque()
    try:
        for batch, jobs in itertools.chain(works, itertools.repeat(({}, []), prefetch)):
            ahead.append((batch, [pool.submit(job) for job in jobs]))
            if len(ahead) > prefetch:
                done, futures = ahead.popleft()
                for future in futures:
                    future.result()
                yield done
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
