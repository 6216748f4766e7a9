"""Handwritten digits: 1,797 real images that come inside scikit-learn, as a data set.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin
and Kaynak, 1998): 8x8 pixels of 17 grey levels, 43 writers.
"""

import functools
import hashlib
import importlib.util
import io
import pathlib
import typing
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from s2mlp_jax.data.known_sizes import parts_of_split
from s2mlp_jax.data.names import DIGITS
from s2mlp_jax.data.split import Split

TEST_IMAGES = 360
# In the package's folder. Importing sklearn.datasets takes a second, at each start of a run.
_FILE = "datasets/data/digits.csv.gz"


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns images (1797, 8, 8, 1) in uint8 and labels (1797,), from the installed package."""
    sklearn = importlib.util.find_spec("sklearn")
    file = pathlib.Path(sklearn.origin if sklearn and sklearn.origin else "").parent / _FILE
    if file.is_file():
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        levels, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    else:  # a version that keeps it elsewhere
        from sklearn.datasets import load_digits as sklearn_digits

        digits = sklearn_digits()
        levels, labels = digits.images, digits.target.astype(np.int64)
    return np.rint(levels * (255 / 16)).astype(np.uint8)[..., None], labels


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Splits the set into train and test; the split is fixed and stratified by label.

    Each class is permuted by a fixed seed, and the classes' relative ranks are merged, so
    every prefix of the result has the classes in their overall proportion; the first 360
    images are the test set.
    """
    rng = np.random.RandomState(0)  # numpy promises that its numbers never change
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = (rng.permutation(len(members)) + 0.5) / len(members)
    order = np.argsort(rank, kind="stable")
    return {"train": np.sort(order[TEST_IMAGES:]), "test": np.sort(order[:TEST_IMAGES])}


class _Pngs:
    """The records of a split, as the files of a prepared data set would give them."""

    def __init__(self, records: Sequence[tuple[bytes, int]]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        index = int(index)
        image, label = self._records[index]
        return {"image": image, "label": label, "index": index, "key": str(index)}


@functools.cache
def _records() -> dict[str, list[tuple[bytes, int]]]:
    """Returns the images as PNG files, with their labels, in the order of each split."""
    images, labels = load_digits()
    return {
        # TFDS's order, in which earlier versions prepared this data set: see `split_indices`.
        part: [(_png(images[i]), int(labels[i])) for i in sorted(indices, key=_tfds_order(part))]
        for part, indices in split_indices(labels).items()
    }


def _tfds_order(part: str) -> Callable[[int], bytes]:
    return lambda i: hashlib.md5(f"{part}{i}".encode(), usedforsecurity=False).digest()


def _png(image: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(image[..., 0]).save(file, "PNG")
        return file.getvalue()


def open_digits(split: str) -> Split:
    """Opens a split of the digits: 1,437 images for training and 360 for testing.

    The name, the order and the pixels are those of the TFDS data set digits/1.0.0, which earlier
    versions prepared, so a run that began with it goes on.

    Args:
      split: "train", "test" or a part of them in TFDS's notation, "train[:10%]".

    Raises:
      ValueError: there is no such split.
    """
    records = _records()
    pieces = parts_of_split(DIGITS, split, {part: len(found) for part, found in records.items()})
    return Split(
        name=f"{DIGITS}/1.0.0 {split}",
        source=_Pngs([r for part, start, stop in pieces for r in records[part][start:stop]]),
        num_classes=10,
        channels=1,
        class_names=tuple(map(str, range(10))),
        path="scikit-learn",
    )
