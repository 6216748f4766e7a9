"""Handwritten digits: 1,797 real images that come inside scikit-learn, as a TFDS data set.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin
and Kaynak, 1998): 8x8 pixels of 17 grey levels, 43 writers.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

TRAIN_IMAGES = 1437
TEST_IMAGES = 360


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns images (1797, 8, 8, 1) in uint8 and labels (1797,), from the installed package."""
    # Imported here: it takes seconds, and only preparing the data needs it.
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images[..., None], digits.target.astype(np.int64)


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


class Digits(tfds.core.GeneratorBasedBuilder):
    """The digits as `image` (8, 8, 1) and `label`, 1,437 for training and 360 for testing."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            description=__doc__,
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        images, labels = load_digits()
        return {
            split: self._generate_examples(images, labels, indices)
            for split, indices in split_indices(labels).items()
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for i in indices:
            yield int(i), {"image": images[i], "label": int(labels[i])}
