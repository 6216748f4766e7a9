"""Known data sets that are not prepared here: their sizes, for planning a run."""

import dataclasses

import tensorflow_datasets as tfds

from s2mlp_jax.data import digits, names, sources

# name -> (images a split, classes, channels)
_KNOWN: dict[str, tuple[dict[str, int], int, int]] = {
    "imagenet2012": ({"train": 1_281_167, "validation": 50_000}, 1000, 3),
    "cifar10": ({"train": 50_000, "test": 10_000}, 10, 3),
    "digits": ({"train": digits.TRAIN_IMAGES, "test": digits.TEST_IMAGES}, 10, 1),
}


def stand_in(name: str, split: str, image_size: int) -> sources.Split | None:
    """Returns a split of the right size without its images; None if the size is not known.

    Args:
      name: of the data set; "imagenet2012:5.1.0" and the copy "imagenet2012_256" are known too.
      split: in TFDS's notation.
      image_size: pixels.

    Raises:
      ValueError: the data set has no such split.
    """
    base, _ = names.origin(name)
    if base not in _KNOWN:
        return None
    sizes, classes, channels = _KNOWN[base]
    infos = {
        part: tfds.core.SplitInfo(name=part, shard_lengths=[size], num_bytes=0)
        for part, size in sizes.items()
    }
    try:
        pieces = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except ValueError as error:
        raise ValueError(
            f"Data set {name!r} has no split {split!r}. It has {', '.join(sizes)}."
        ) from error
    length = sum(
        (sizes[piece.splitname] if piece.to is None else piece.to) - (piece.from_ or 0)
        for piece in pieces
    )
    return dataclasses.replace(
        sources.synthetic_split(image_size, length),
        name=f"{name} {split} (not prepared here)",
        num_classes=classes,
        channels=channels,
        class_names=tuple(map(str, range(classes))),
        path="its known size",
    )
