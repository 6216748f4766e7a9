"""shuffle -> repeat -> augment -> this process's part -> batch; and padded evaluation.

The order of the training data, random draws included, is a function of (seed, position)
alone: the same for any number of processes and threads, and for a run that was resumed.
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
from grain.experimental import index_shuffle

from s2mlp_jax.data.sources import Split
from s2mlp_jax.data.views import BrokenImageError, Crops, decode, eval_view, train_views
from s2mlp_jax.progress import say

Batch = dict[str, np.ndarray]
Record = dict[str, typing.Any]
# Of one batch: its arrays, not filled yet, and what has to be done to fill them, in any order.
_Work = tuple[Batch, list[Callable[[], None]]]
_Made = typing.TypeVar("_Made")

# Of Grain's shuffle. With its usual 4 a batch holds the parts of a data set more evenly than chance
# would, and images that follow each other are correlated (docs/decisions.md).
_SHUFFLE_ROUNDS = 12
_IMAGES_PER_JOB = 16  # at the most; to hand over single small images costs more than to make them


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
      split: what to read.
      crops: how to augment.
      seed: of the order and of the random views.
      batch_size: of the global batch.
      positions: the positions within the global batch that this process holds.
      repeats: views of each image in a batch (repeated augmentation, arXiv 1901.09335). A batch
        then has so many times fewer images, and its views of one lie far apart in it, each beside
        another image (`batch_places`). An image is decoded once for all of its views that this
        process holds.
      start_step: batches to pass over; they are skipped, not read.
      num_threads: that read and augment, each a few images of a batch at a time; 0 does all in
        the calling thread.
      prefetch: batches that are being made, or wait in memory, while the caller has another.
      on_corrupt: "stop" raises; "skip" takes the next readable record of the split instead of a
        broken one.

    Yields:
      image (len(positions), image_size, image_size, c) uint8 and label (len(positions),) int32;
      with "skip" also corrupt (len(positions),) bool, True where another record stands in.

    Raises:
      BrokenImageError: it names the record; the batches before were yielded.
    """
    order = _order(len(split), seed)
    distinct = -(-batch_size // repeats)
    views: dict[int, list[int]] = {}  # the image's place in the batch -> its rows here
    for row, place in enumerate(batch_places(batch_size, repeats)[positions]):
        views.setdefault(int(place), []).append(row)
    read = _Reader(split, on_corrupt)

    def fill(batch: Batch, step: int, places: tuple[int, ...]) -> None:
        # All are read before the first is decoded, which would drive this code from the caches.
        records = [split.source[order(step * distinct + place)] for place in places]
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

    The last batch is filled up; `mask` is False for what fills it.

    Args:
      on_corrupt: "stop" raises; "skip" masks a broken image out.
      split: as in `train_batches`.
      crops: as in `train_batches`.
      batch_size: as in `train_batches`.
      positions: as in `train_batches`.
      num_threads: as in `train_batches`.
      prefetch: as in `train_batches`.

    Yields:
      image and label as in `train_batches`, and mask (len(positions),) bool; with "skip" also
      corrupt, True for the broken images that the mask leaves out.

    Raises:
      BrokenImageError: it names the record.
    """
    read = _Reader(split, on_corrupt)

    def make(record: Record) -> np.ndarray:
        return eval_view(decode(record, split.channels, split.name), crops)

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
    """Returns which of a batch's images stands at each of its positions, (batch_size,).

    One copy of the images follows the other. Mixup and cutmix mix neighbours, so each copy takes
    the images in another stride, coprime to their number: the views of an image then meet
    different images, which in the same order would all meet the same one.
    """
    distinct = -(-batch_size // repeats)
    # A stride and its negative make the same neighbours, so that half of them are enough.
    coprime = (n for n in range(1, distinct // 2 + 1) if math.gcd(n, distinct) == 1)
    strides = list(itertools.islice(coprime, repeats)) or [1]
    copy, place = np.divmod(np.arange(batch_size), distinct)
    return place * np.take(strides, copy, mode="wrap") % distinct


def _order(length: int, seed: int) -> Callable[[int], int]:
    """Returns what says which record stands at a place of the endless stream.

    Every epoch has an order of its own. Grain's shuffle computes a place alone, so that nothing
    is kept in memory or has to be computed first.
    """

    @functools.lru_cache(maxsize=4)
    def seed_of(epoch: int) -> int:
        return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])

    def record_at(place: int) -> int:
        epoch, inside = divmod(place, length)
        return index_shuffle(inside, length - 1, seed_of(epoch), _SHUFFLE_ROUNDS)

    return record_at


class _Reader:
    """Makes something of records; with "skip", of the next one in the place of a broken one."""

    def __init__(self, split: Split, on_corrupt: str) -> None:
        self._split, self._on_corrupt = split, on_corrupt
        self._told: set[int] = set()

    def __call__(self, asked: Record, make: Callable[[Record], _Made]) -> tuple[Record, _Made]:
        """Returns what was made, and of which record."""
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
    """Cuts a batch's items into parts for the threads."""
    items = tuple(items)
    size = min(_IMAGES_PER_JOB, -(-len(items) // max(num_threads, 1)))
    return [items[i : i + size] for i in range(0, len(items), size)]


def _prefetched(works: Iterator[_Work], num_threads: int, prefetch: int) -> Iterator[Batch]:
    """Yields the batches in order, filled by `num_threads` threads, `prefetch` ahead."""
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
