"""How an image becomes what a model takes, as in the evaluation: `preprocessing.json`."""

import dataclasses
import pathlib
import typing

import numpy as np
from PIL import Image

from s2mlp_jax.data.views import Crops, eval_view, read_pixels

# A file, or an image of Pillow's, or pixels (h, w) or (h, w, c) uint8.
ImageLike = str | pathlib.Path | typing.IO[bytes] | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to image_size / crop_ratio, take the central square, normalise.

    Attributes:
      image_size: pixels.
      crop_ratio: image_size over the short side after the resize.
      interpolation: of the resize.
      mean, std: of pixels in [0, 1], one a channel: as many as the images are made to have.
      antialias: of the resize; Pillow's always is.
      decoder: that the metrics were measured with; the evaluation's is Pillow.
      rotate: degrees by which an image is turned counter-clockwise first.

    Raises:
      ValueError: at construction, if a value is not allowed.
    """

    image_size: int
    crop_ratio: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool = True
    decoder: str = "pillow"
    rotate: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))  # JSON has lists
        object.__setattr__(self, "std", tuple(self.std))
        if self.channels not in (1, 3) or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std must have 1 or 3 entries each, got {self.mean} and {self.std}."
            )
        if not self.antialias or self.decoder != "pillow":
            raise ValueError(
                "There is no preprocessing here but with antialias true and decoder pillow, "
                f"got {self.antialias} and {self.decoder!r}."
            )
        self._make_crops()  # which checks the other values

    @property
    def channels(self) -> int:
        """Of the images: 1 or 3."""
        return len(self.mean)

    @property
    def crops(self) -> Crops:
        """The same, as the evaluation's pipeline takes it."""
        return self._make_crops()

    def _make_crops(self) -> Crops:
        size, ratio = self.image_size, self.crop_ratio
        how = (self.interpolation, self.decoder, self.rotate)
        return Crops(size, "resize", 1.0, 0, 0.0, ratio, *how)

    def at(self, image_size: int) -> "Preprocessing":
        """Returns the same for another image size, in pixels."""
        return dataclasses.replace(self, image_size=image_size)

    def pixels(self, image: ImageLike) -> np.ndarray:
        """Returns the view that is classified, (image_size, image_size, channels) uint8.

        Raises:
          OSError, SyntaxError: a file that is no whole image; Pillow raises both.
          ValueError: an array that is no image.
        """
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or not (
                image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (1, 3, 4))
            ):
                raise ValueError(
                    "An image as an array is (h, w) or (h, w, 1, 3 or 4) uint8, "
                    f"got {image.dtype}{list(image.shape)}."
                )
            image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        return eval_view(read_pixels(image, self.channels), self.crops)

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Returns a model's input, (image_size, image_size, channels) float32, as `pixels` does.

        Several are stacked: `np.stack([preprocess(x) for x in images])`.
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        # In the order of data.mix.normalize, so that the numbers are those of the evaluation.
        return self.pixels(image).astype(np.float32) * (1 / (255 * std)) - mean / std
