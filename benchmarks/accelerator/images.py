"""Small data sets in memory, without files: the digits, and noise."""

import importlib.util

import numpy as np

from s2mlp_jax.data.split import Split


class _Arrays:
    """Records of images (n, h, w, c) uint8 and labels (n,)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, object]:
        index = int(index)
        record = {"image": self._images[index], "label": int(self._labels[index])}
        return {**record, "index": index, "key": str(index)}


def _split(name: str, images: np.ndarray, labels: np.ndarray) -> Split:
    names = tuple(str(i) for i in range(10))
    return Split(name, _Arrays(images, labels), 10, images.shape[-1], names, "(memory)")


def noise(train: int, test: int, size: int, channels: int) -> tuple[Split, Split]:
    """Returns a training and a test split of random images (size, size, channels), ten classes."""
    rng = np.random.default_rng(0)

    def draw(name: str, count: int) -> Split:
        images = rng.integers(0, 256, (count, size, size, channels), np.uint8)
        return _split(f"noise {name}", images, rng.integers(0, 10, count))

    return draw("train", train), draw("test", test)


def digits() -> tuple[Split, Split]:
    """Returns scikit-learn's digits, or noise of the same size if scikit-learn is missing."""
    if importlib.util.find_spec("sklearn") is None:
        return noise(1437, 360, 8, 1)
    from s2mlp_jax.data.digits import load_digits, split_indices

    images, labels = load_digits()
    parts = split_indices(labels)
    train, test = (_split(f"digits {p}", images[i], labels[i]) for p, i in parts.items())
    return train, test
