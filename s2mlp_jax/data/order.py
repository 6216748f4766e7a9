"""The order of the training images: a different shuffle in every epoch, a function of the seed."""

import functools
import typing
from collections.abc import Callable

import numpy as np
from grain.experimental import index_shuffle

# Rounds of Grain's shuffle. With the default 4, a batch holds the parts of a data set more evenly
# than chance would, and successive images are correlated (docs/decisions.md).
_ROUNDS = 12
_LEAST_BITS = 16  # of the block that Grain's cipher permutes
# Larger sets are shuffled by Grain, one position at a time: 5 us each. In smaller ones most blocks
# of 16 bits are no records, so that Grain takes up to 150 us for one of the digits.
_WHOLE_EPOCHS_UP_TO = 2**18


def record_order(length: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from positions in the endless stream to record indices, (n,) -> (n,).

    It gives every position independently of the others; of a small set it keeps two epochs.
    """
    seed_of = functools.lru_cache(maxsize=4)(functools.partial(_epoch_seed, seed))

    @functools.lru_cache(maxsize=2)
    def order_of(epoch: int) -> np.ndarray:
        return epoch_order(length, seed_of(epoch))

    def records_at(places: np.ndarray) -> np.ndarray:
        epochs, inside = np.divmod(places, length)
        if length > _WHOLE_EPOCHS_UP_TO:
            pairs = zip(epochs.tolist(), inside.tolist(), strict=True)
            return np.array(
                [index_shuffle(i, length - 1, seed_of(epoch), _ROUNDS) for epoch, i in pairs],
                np.int32,
            )
        records = np.empty(len(places), np.int32)
        for epoch in range(epochs.min(), epochs.max() + 1):
            here = epochs == epoch
            records[here] = order_of(epoch)[inside[here]]
        return records

    return records_at


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def epoch_order(length: int, seed: int) -> np.ndarray:
    """Returns the record at each position of an epoch, (length,) int32.

    The same as Grain's `index_shuffle` of each position: a block cipher, Simon (eprint 2013/404),
    permutes blocks of an even number of bits. A result beyond the last record is encrypted again
    until it is a record (Black and Rogaway, "Ciphers with arbitrary finite domains"). As in Grain,
    the last record is never seen if there are 2^16 + 1 of them, 2^18 + 1, and so on.

    Args:
      seed: of this epoch, in [0, 2^32).
    """
    if length == 1:
        return np.zeros(1, np.int32)
    bits = max((length - 2).bit_length(), _LEAST_BITS)  # as in Grain, which has ceil(log2(n - 1))
    width = (bits + bits % 2) // 2
    # The narrowest type that holds a half: numpy computes four times as many uint8 at once.
    kind: typing.Any = np.uint8 if width == 8 else np.uint16 if width <= 16 else np.uint32
    mask, bits_of_kind = (1 << width) - 1, 8 * np.dtype(kind).itemsize

    def rotated(x: np.ndarray, by: int) -> np.ndarray:
        by %= width
        if not by:
            return x
        turned = (x << kind(by)) | (x >> kind(width - by))
        return turned if width == bits_of_kind else turned & kind(mask)

    def mixed(x: np.ndarray) -> np.ndarray:
        return (rotated(x, 1) & rotated(x, 8)) ^ rotated(x, 2)

    block = np.arange(1 << (2 * width), dtype=np.uint32)
    left, right = (block >> np.uint32(width)).astype(kind), (block & np.uint32(mask)).astype(kind)
    keys = _seed_sequence(seed, _ROUNDS)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left ^= mixed(right) ^ kind(first & mask)
        right ^= mixed(left) ^ kind(second & mask)
    after = (left.astype(np.intp) << width) | right  # all blocks, each encrypted once
    # Each pass doubles the number of encryptions of the blocks that are no records yet.
    while (beyond := np.flatnonzero(after >= length)).size and (after[:length] >= length).any():
        after[beyond] = after[after[beyond]]
    return after[np.arange(length) % after.size].astype(np.int32)


def _seed_sequence(seed: int, count: int) -> list[int]:
    """Returns `count` 32-bit numbers as C++'s `std::seed_seq{seed}` generates them, for 7 to 38."""
    given, n, low = [seed], count, 0xFFFFFFFF
    numbers, gap = [0x8B8B8B8B] * n, 3
    p = (n - gap) // 2
    q, passes = p + gap, max(len(given) + 1, n)

    def stirred(x: int) -> int:
        return x ^ (x >> 27)

    for k in range(passes):
        at, near, far = k % n, (k + p) % n, (k + q) % n
        mixed = 1664525 * stirred(numbers[at] ^ numbers[near] ^ numbers[k - 1 if k else -1]) & low
        add = len(given) if k == 0 else at + (given[k - 1] if k <= len(given) else 0)
        numbers[near] = (numbers[near] + mixed) & low
        numbers[far] = (numbers[far] + mixed + add) & low
        numbers[at] = (mixed + add) & low
    for k in range(passes, passes + n):
        at, near, far = k % n, (k + p) % n, (k + q) % n
        total = (numbers[at] + numbers[near] + numbers[(k - 1) % n]) & low
        mixed = 1566083941 * stirred(total) & low
        numbers[near] ^= mixed
        mixed = (mixed - at) & low
        numbers[far] ^= mixed
        numbers[at] = mixed
    return numbers
