"""What a split of a data set is, wherever its images come from."""

import dataclasses
import re
import typing
from collections.abc import Mapping

from s2mlp_jax.data.views import decode


class Source(typing.Protocol):
    """Random access to records.

    One is {"image": bytes or (h, w, c) uint8, "label": int, "index": its number, "key": the name
    that the data set knows it by, such as "n02105855_2933.JPEG", else the number as a string}.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, typing.Any]: ...


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
      name: of the split, for messages: "cifar10/3.0.2 train".
      source: its records.
      num_classes: labels run from 0 to num_classes - 1.
      channels: of the images, 1 or 3.
      class_names: one a label.
      path: folder of the files.
      metadata: what the data set records about itself, such as the short side of its images.
      constant: whether a training makes one batch and repeats it, so that data take no time.
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
        """Returns the same split, its images read grey (1), in colour (3), or as they are (0)."""
        return dataclasses.replace(self, channels=channels) if channels else self

    def cached(self) -> "Split":
        """Returns the same split with every image decoded, now, and kept in memory.

        A constant split stays as it is: it is read once anyway.

        Raises:
          BrokenImageError: as `decode` does.
        """
        if self.constant:
            return self
        return dataclasses.replace(self, source=_Cached(self.source, self.name, self.channels))


def public_name(split: str) -> str:
    """Returns "folder:images train" of "folder:/my/images train"; other names as they are."""
    return re.sub(r"^folder:.*/", "folder:", split)


class _Cached:
    """Every record, decoded once and kept in memory."""

    def __init__(self, source: Source, name: str, channels: int) -> None:
        records = (source[i] for i in range(len(source)))
        self._records = [{**record, "image": decode(record, channels, name)} for record in records]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        return self._records[int(index)]
