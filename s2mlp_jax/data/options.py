"""The group `data` of a config: which images, and how they become batches."""

import dataclasses

from s2mlp_jax.checks import check_choices, check_positive, check_range
from s2mlp_jax.data.views import ON_CORRUPT, Crops


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(Crops):
    """Where images come from and how they are read; how they are cropped is said by `Crops`.

    Attributes:
      name: of the data set: a TFDS name, "digits", "folder:/my/images" or "synthetic".
      train_split, eval_split: in TFDS's notation, "train[:10%]".
      data_dir: folder of prepared data sets; "" for TFDS's default.
      download: whether TFDS may use the network.
      cache: whether every image is decoded once and kept in memory.
      channels: to read images with, 1 grey, 3 in colour; 0: as the data have them.
      repeats: views of an image in one batch.
      on_corrupt: what happens at a broken image, one of `ON_CORRUPT`.
      mean, std: of pixels in [0, 1], one per channel.
      num_threads: that decode and augment; 0 for the calling thread alone.
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
