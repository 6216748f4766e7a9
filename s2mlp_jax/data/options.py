"""The group `data` of a config: the images, and how batches are made of them."""

import dataclasses
from typing import Annotated

from s2mlp_jax.checks import Choices, Range, Text
from s2mlp_jax.data.decoding import ON_CORRUPT
from s2mlp_jax.data.views import Crops

# Where images are during training: in the devices' memory, on the host, which sends every batch,
# or in the devices' memory if the set is small and its views can be made there.
PLACES: tuple[str, ...] = ("auto", "device", "host")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(Crops):
    """Where images come from and how they are read; `Crops` defines how they are cropped.

    Attributes:
      name: data set: a TFDS name, "digits", "folder:/my/images" or "synthetic".
      train_split, eval_split: splits in TFDS's notation, "train[:10%]".
      data_dir: folder of prepared data sets; "" for TFDS's default.
      download: whether TFDS may use the network.
      cache: whether every image is decoded once and kept in memory.
      place: where the images are in training, one of `PLACES`.
      channels: 1 to read images in grey, 3 in colour; 0 for the channels of the data.
      repeats: views of an image per batch.
      on_corrupt: what to do about a broken image, one of `ON_CORRUPT`.
      mean, std: mean and standard deviation of pixels in [0, 1], one per channel.
      num_threads: threads that decode and augment; 0 for the calling thread alone.
      prefetch: batches that are made ahead.

    Raises:
      ValueError: at construction, if a field's value is not allowed.
    """

    name: Annotated[str, Text(may_be_empty=False)]
    train_split: Annotated[str, Text(may_be_empty=False)]
    eval_split: Annotated[str, Text(may_be_empty=False)]
    data_dir: Annotated[str, Text()]
    download: bool
    cache: bool
    place: Annotated[str, Choices(PLACES)]
    channels: Annotated[int, Choices((0, 1, 3))]
    repeats: Annotated[int, Range("[1, 2^20]")]
    on_corrupt: Annotated[str, Choices(ON_CORRUPT)]
    mean: Annotated[tuple[float, ...], Range("[0, 1]")]
    std: Annotated[tuple[float, ...], Range("[0.001, 1000]")]
    num_threads: Annotated[int, Range("[0, 1024]")]
    prefetch: Annotated[int, Range("[1, 1024]")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mean) != len(self.std):
            raise ValueError(f"data.mean {self.mean} and data.std {self.std} differ in length.")
        if len(self.mean) not in (1, 3):
            raise ValueError(
                f"data.mean {self.mean} and data.std {self.std} must have one value per channel: "
                "1 for grey images, 3 for colour."
            )
