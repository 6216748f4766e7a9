"""Sizes of known data sets, for planning a run before they are prepared."""

import typing
from collections.abc import Mapping

import tensorflow_datasets as tfds

from s2mlp_jax.data import names
from s2mlp_jax.data.split import Split

# name -> (images per split, classes, channels)
_KNOWN: dict[str, tuple[dict[str, int], int, int]] = {
    "imagenet2012": ({"train": 1_281_167, "validation": 50_000}, 1000, 3),
    "cifar10": ({"train": 50_000, "test": 10_000}, 10, 3),
}


class _NotHere:
    """A given number of records, none of which can be read."""

    def __init__(self, length: int, name: str) -> None:
        self._length, self._name = length, name

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        raise ValueError(f"{self._name}: only the size of this data set is known here.")


def absolute_parts(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Does what `parts_of_split` does, with TFDS's own errors: ValueError, NotImplementedError."""
    infos = {
        part: tfds.core.SplitInfo(name=part, shard_lengths=[size], num_bytes=0)
        for part, size in sizes.items()
    }
    return [
        (
            piece.splitname,
            piece.from_ or 0,
            sizes[piece.splitname] if piece.to is None else piece.to,
        )
        for piece in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    ]


def parts_of_split(name: str, split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Returns the pieces that a split is made of: [("train", first image, last image + 1), ...].

    Args:
      name: name of the data set, for messages.
      split: split in TFDS's notation, "train[:10%]+test".
      sizes: name of a whole split -> number of its images.

    Raises:
      ValueError: the data set has no such split, or no image is in it.
    """
    try:
        parts = absolute_parts(split, sizes)
    except ValueError as error:
        raise ValueError(
            f"Data set {name!r} has no split {split!r}. It has {', '.join(sizes)}."
        ) from error
    if sum(stop - start for _, start, stop in parts) < 1:
        raise ValueError(f"The split {split!r} of {name} is empty.")
    return parts


def count_images(name: str, split: str, sizes: Mapping[str, int]) -> int:
    """Returns the number of images in a split; arguments and errors as of `parts_of_split`."""
    return sum(stop - start for _, start, stop in parts_of_split(name, split, sizes))


def placeholder_split(name: str, split: str) -> Split | None:
    """Returns a split of the right size without its images; None if the size is not known.

    Args:
      name: data set; "imagenet2012:5.1.0" and the copy "imagenet2012_256" are known too.
      split: split in TFDS's notation.

    Raises:
      ValueError: the data set has no such split.
    """
    base, _ = names.origin(name)
    if base not in _KNOWN:
        return None
    sizes, classes, channels = _KNOWN[base]
    title = f"{name} {split} (not prepared here)"
    return Split(
        name=title,
        source=_NotHere(count_images(name, split, sizes), title),
        num_classes=classes,
        channels=channels,
        class_names=tuple(map(str, range(classes))),
        path="its known size",
    )
