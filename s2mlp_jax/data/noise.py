"""The data set `synthetic`: noise images with ImageNet's classes, for timing without files."""

import functools
import io
import typing

import numpy as np
from PIL import Image

from s2mlp_jax.data.known_sizes import count_images
from s2mlp_jax.data.split import Split

NAME = "synthetic"
_SIZES = {"train": 1_281_167, "validation": 1024, "val": 1024, "test": 1024}
_CLASSES = 1000
_SIDE = 256  # pixels


class _Noise:
    """The same JPEG at every index; its label is the index modulo the number of classes."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        index = int(index)
        return {"image": _jpeg(), "label": index % _CLASSES, "index": index, "key": str(index)}


@functools.cache
def _jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG")
        return file.getvalue()


def open_noise(split: str) -> Split:
    """Opens a split of noise images; training makes one batch and repeats it.

    Args:
      split: split in TFDS's notation. train is as long as ImageNet's; validation, val and test
        have 1,024 images.

    Raises:
      ValueError: there is no such split.
    """
    return Split(
        name=NAME,
        source=_Noise(count_images(NAME, split, _SIZES)),
        num_classes=_CLASSES,
        channels=3,
        class_names=tuple(map(str, range(_CLASSES))),
        path="(memory)",
        constant=True,
    )
