"""A split of a data set, independent of where its images come from."""

import dataclasses
import re
import typing
from collections.abc import Mapping

import numpy as np

from s2mlp_jax.data.decoding import MAX_PIXELS, BrokenImageError, decode


class Source(typing.Protocol):
    """Random access to records.

    A record is {"image": bytes or (h, w, c) uint8, "label": int, "index": its number, "key": its
    name in the data set, such as "n02105855_2933.JPEG", or the number as a string}. The image of a
    file that cannot be read is the `BrokenImageError`, which `decode` raises.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, typing.Any]: ...


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
      name: name of the split, for messages: "cifar10/3.0.2 train".
      source: the records.
      num_classes: labels run from 0 to num_classes - 1.
      channels: channels of the images, 1 or 3.
      class_names: one per label.
      path: folder of the files.
      metadata: what the data set records about itself, such as the short side of its images.
      constant: whether training makes one batch and repeats it, so that data take no time.
    """

    name: str
    source: Source
    num_classes: int
    channels: int
    class_names: tuple[str, ...]
    path: str
    metadata: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)
    constant: bool = False

    def __len__(self) -> int:
        return len(self.source)

    def read_with(self, channels: int) -> "Split":
        """Returns the split with images read in grey (1), in colour (3), or unchanged (0)."""
        return dataclasses.replace(self, channels=channels) if channels else self

    def cached(self, on_corrupt: str = "stop", max_pixels: int = MAX_PIXELS) -> "Split":
        """Returns the same split, with all images decoded now and kept in memory.

        A constant split is returned unchanged, as it is read only once.

        Args:
          on_corrupt: "stop" raises; "skip" keeps the error in the place of a broken image.
          max_pixels: as in `decode`.

        Raises:
          BrokenImageError: as in `decode`.
        """
        if self.constant:
            return self
        return dataclasses.replace(self, source=_Cached(self, on_corrupt, max_pixels))


def public_name(split: str) -> str:
    """Shortens "folder:/my/images train" to "folder:images train"; keeps other names."""
    return re.sub(r"^folder:.*/", "folder:", split)


class _Cached:
    """All records, decoded once and kept in memory."""

    def __init__(self, split: Split, on_corrupt: str, max_pixels: int) -> None:
        self._records = []
        for record in (split.source[i] for i in range(len(split))):
            image: np.ndarray | BrokenImageError
            try:
                image = decode(record, split.channels, split.name, max_pixels)
            except BrokenImageError as error:
                if on_corrupt == "stop":
                    raise
                image = error
            self._records.append({**record, "image": image})

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        return self._records[int(index)]
