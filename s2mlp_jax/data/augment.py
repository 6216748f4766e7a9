"""On the host: decode, crop, flip. Images are (h, w, c) uint8."""

import dataclasses
import io
import math
import typing

import numpy as np
from PIL import Image

CROPS: tuple[str, ...] = ("random_resized", "pad", "resize")
INTERPOLATIONS: dict[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}

# Width over height of a random resized crop, drawn log-uniformly (torchvision's and DeiT's).
_ASPECT_RATIO = (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True)
class Crops:
    """How images become image_size x image_size pixels.

    Attributes:
      image_size: pixels.
      train_crop: "random_resized" (a random part, resized), "pad" (a random crop of the
        image with `crop_padding` black pixels around it) or "resize".
      crop_area_min: smallest part of the area that "random_resized" takes.
      crop_padding: pixels.
      flip: probability of a horizontal flip in training.
      eval_crop_ratio: image_size over the short side that the image is resized to before
        the central crop.
      interpolation: of every resize, antialiased as Pillow does it.

    Raises:
      ValueError: at construction, if a field's value is not allowed.
    """

    image_size: int
    train_crop: str
    crop_area_min: float
    crop_padding: int
    flip: float
    eval_crop_ratio: float
    interpolation: str

    def __post_init__(self) -> None:
        for field, allowed in (("train_crop", CROPS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"Unknown data.{field} {getattr(self, field)!r}. "
                    f"Allowed are {', '.join(allowed)}."
                )
        for field in ("crop_area_min", "eval_crop_ratio"):
            if not 0.0 < getattr(self, field) <= 1.0:
                raise ValueError(f"data.{field} must be in (0, 1], got {getattr(self, field)}.")
        if not 0.0 <= self.flip <= 1.0:
            raise ValueError(f"data.flip must be in [0, 1], got {self.flip}.")
        if self.crop_padding < 0 or self.image_size < 1:
            raise ValueError("data.crop_padding and data.image_size must not be negative or zero.")


def decode(record: dict[str, typing.Any], channels: int, origin: str) -> np.ndarray:
    """Decodes a record's image file to (h, w, channels) uint8; passes a decoded one through.

    Args:
      record: {"image": the bytes of a JPEG, PNG, ..., "index": its number}.
      channels: 1 or 3; a grey image is repeated to three, a CMYK one converted.
      origin: the data set and split, for the message.

    Raises:
      ValueError: if the bytes are no whole image; it names the record.
    """
    image = record["image"]
    if isinstance(image, np.ndarray):
        return image
    try:
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L" if channels == 1 else "RGB"))
    except (OSError, SyntaxError) as error:  # Pillow raises both for broken files
        raise ValueError(
            f"Broken image: {origin}, record {record['index']}, {len(image)} bytes: {error}. "
            "Prepare the data set again from whole files."
        ) from error
    return pixels[..., None] if channels == 1 else pixels


def _resize(
    image: np.ndarray, width: int, height: int, how: str, box: typing.Any = None
) -> np.ndarray:
    """Resizes a part of the image, box = (left, top, right, bottom), all of it by default."""
    if box is None and image.shape[:2] == (height, width):
        return image
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    pixels = np.asarray(picture.resize((width, height), INTERPOLATIONS[how], box=box))
    return pixels[..., None] if grey else pixels


def _random_box(
    height: int, width: int, area_min: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws the box of a random resized crop, as torchvision does: ten tries, then the centre."""
    low, high = _ASPECT_RATIO
    for _ in range(10):
        area = height * width * rng.uniform(area_min, 1.0)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            top = int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def train_view(image: np.ndarray, crops: Crops, rng: np.random.Generator) -> np.ndarray:
    """Draws one training view, (image_size, image_size, c) uint8."""
    size, pad = crops.image_size, crops.crop_padding
    if crops.train_crop == "random_resized":
        box = _random_box(image.shape[0], image.shape[1], crops.crop_area_min, rng)
        image = _resize(image, size, size, crops.interpolation, box)
    else:
        image = _resize(image, size, size, crops.interpolation)
    if crops.train_crop == "pad" and pad:
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        top, left = rng.integers(0, 2 * pad + 1, size=2)
        image = padded[top : top + size, left : left + size]
    if crops.flip and rng.random() < crops.flip:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def eval_view(image: np.ndarray, crops: Crops) -> np.ndarray:
    """Resizes the short side to image_size / eval_crop_ratio and takes the central square."""
    size = crops.image_size
    height, width = image.shape[:2]
    short = max(size, round(size / crops.eval_crop_ratio))
    scale = short / min(height, width)
    # torchvision rounds the long side down; it never gets shorter than the short one.
    new_height, new_width = max(short, int(height * scale)), max(short, int(width * scale))
    image = _resize(image, new_width, new_height, crops.interpolation)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
