"""The group `data` of a config: the images, and how batches are made of them."""

import dataclasses

from s2mlp_jax.checks import check_choices, check_positive, check_range
from s2mlp_jax.data.views import ON_CORRUPT, Crops


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(Crops):
    """Where images come from and how they are read; `Crops` defines how they are cropped.

    Attributes:
      name: data set: a TFDS name, "digits", "folder:/my/images" or "synthetic".
      train_split, eval_split: splits in TFDS's notation, "train[:10%]".
      data_dir: folder of prepared data sets; "" for TFDS's default.
      download: whether TFDS may use the network.
      cache: whether every image is decoded once and kept in memory.
      channels: 1 to read images in grey, 3 in colour; 0 for the channels of the data.
      repeats: views of an image per batch.
      on_corrupt: what to do about a broken image, one of `ON_CORRUPT`.
      mean, std: mean and standard deviation of pixels in [0, 1], one per channel.
      num_threads: threads that decode and augment; 0 for the calling thread alone.
      prefetch: batches that are made ahead.

    Raises:
      ValueError: at construction, if a field's value is not allowed.
    """

    name: str
    train_split: str
    eval_split: str
    data_dir: str
    download: bool
    cache: bool
    channels: int
    repeats: int
    on_corrupt: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_threads: int
    prefetch: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("data.", self, channels=(0, 1, 3), on_corrupt=ON_CORRUPT)
        check_positive("data.", self, "prefetch", "repeats", "std")
        check_range("data.", self, "[0, 2^32)", "num_threads")
        if len(self.mean) != len(self.std):
            raise ValueError(f"data.mean {self.mean} and data.std {self.std} differ in length.")
