"""Converts an image to a model's input, as in the evaluation: `preprocessing.json`."""

import dataclasses
import pathlib
import typing

import numpy as np
from PIL import Image

from s2mlp_jax.data.decoding import BrokenImageError, read_pixels
from s2mlp_jax.data.views import Crops, eval_view
from s2mlp_jax.saved.files import read_json
from s2mlp_jax.saved.untrusted import check_between, check_kind, check_known

# A file, a Pillow image, or pixels (h, w) or (h, w, c) uint8.
ImageLike = str | pathlib.Path | typing.IO[bytes] | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to image_size / crop_ratio, take the central square, normalise.

    Attributes:
      image_size: side of the model's square input, in pixels.
      crop_ratio: image_size over the short side after the resize.
      interpolation: interpolation method of the resize.
      mean, std: per channel, of pixels in [0, 1]; their length is the number of channels.
      antialias: whether the resize is antialiased; it always is in Pillow.
      decoder: image decoder used for the metrics; the evaluation uses Pillow.
      rotate: counter-clockwise rotation before the resize, in degrees.

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
        for field, values, low, high in (
            ("mean", self.mean, -1e3, 1e3),
            ("std", self.std, 1e-6, 1e3),
        ):
            for value in values:
                check_between(value, low, high, field)
        self._make_crops()  # checks the other values

    @property
    def channels(self) -> int:
        """Number of image channels, 1 or 3."""
        return len(self.mean)

    @property
    def crops(self) -> Crops:
        """The same preprocessing, in the form of the evaluation's pipeline."""
        return self._make_crops()

    def _make_crops(self) -> Crops:
        size, ratio = self.image_size, self.crop_ratio
        how = (self.interpolation, self.decoder, self.rotate)
        return Crops(size, "resize", 1.0, 0, 0.0, ratio, *how)

    def at(self, image_size: int) -> "Preprocessing":
        """Returns the same preprocessing for another image size in pixels."""
        return dataclasses.replace(self, image_size=image_size)

    def pixels(self, image: ImageLike) -> np.ndarray:
        """Returns the view to classify, (image_size, image_size, channels) uint8.

        Raises:
          BrokenImageError: a file that is not a complete image; the message names the file.
          ValueError: an array that is not an image.
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
        try:
            return eval_view(read_pixels(image, self.channels), self.crops)
        except BrokenImageError as error:
            name = f"{image}: " if isinstance(image, str | pathlib.Path) else ""
            raise BrokenImageError(f"{name}{error.reason}.", error.reason) from error

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Returns a model's input, (image_size, image_size, channels) float32; raises as `pixels`.

        A batch of inputs: `np.stack([preprocess(x) for x in images])`.
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        # In the order of data.on_device.normalize, so that values equal those of the evaluation.
        return self.pixels(image).astype(np.float32) * (1 / (255 * std)) - mean / std


def read_preprocessing(path: pathlib.Path) -> Preprocessing:
    """Reads `preprocessing.json`.

    Raises:
      ValueError: the file is missing or invalid; the message names it, and the field.
    """
    content, name = read_json(path), str(path)
    kinds = {
        field: [float] if typing.get_origin(kind) is tuple else kind
        for field, kind in typing.get_type_hints(Preprocessing).items()
    }
    check_kind(content, kinds, name, ("antialias", "decoder", "rotate"))
    check_known(content, kinds, name)
    try:
        return Preprocessing(**content)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
