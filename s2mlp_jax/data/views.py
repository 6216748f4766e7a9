"""Views of images, made on the host: crop, resize, flip. Images are (h, w, c) uint8."""

import dataclasses
import math
import random
import typing
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from PIL import Image

from s2mlp_jax.checks import Choices, FieldError, Range, check_fields
from s2mlp_jax.data import jpeg, turbo
from s2mlp_jax.data.decoding import MAX_PIXELS, check_pixels, decode, naming

CROPS: tuple[str, ...] = ("random_resized", "pad", "resize")
DECODERS: tuple[str, ...] = ("turbo", "pillow")
ROTATIONS: tuple[int, ...] = (0, 90, 180, 270)
INTERPOLATIONS: dict[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}

MAX_IMAGE_SIZE = 8192  # pixels per side of what a model sees

# Width over height of a random resized crop, drawn log-uniformly (torchvision's and DeiT's).
_ASPECT_RATIO = (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True)
class Crops:
    """How images become image_size x image_size pixels.

    Attributes:
      image_size: side of the square, in pixels.
      train_crop: "random_resized" (a random part, resized), "pad" (a random crop of the
        image with `crop_padding` black pixels around it) or "resize".
      crop_area_min: smallest fraction of the area that "random_resized" takes.
      crop_padding: width of the padding on each side, in pixels.
      flip: probability of a horizontal flip in training.
      eval_crop_ratio: image_size / short side of the image after the evaluation's resize, which
        comes before the central crop.
      interpolation: method of every resize, antialiased as in Pillow.
      decoder: library that decodes and resizes for training: "pillow", or "turbo", which is
        twice as fast (see `turbo.py`). Evaluation always uses Pillow.
      rotate: degrees of counter-clockwise rotation, applied to all images in training and
        evaluation before anything else: one of `ROTATIONS`.
      max_pixels: an image of more pixels is broken, by its header or after evaluation's resize.

    Raises:
      ValueError: at construction, if a field's value is not allowed or a library is not installed.
    """

    image_size: Annotated[int, Range(f"[1, {MAX_IMAGE_SIZE}]")]
    train_crop: Annotated[str, Choices(CROPS)]
    crop_area_min: Annotated[float, Range("(0, 1]")]
    crop_padding: Annotated[int, Range("[0, 1024]")]
    flip: Annotated[float, Range("[0, 1]")]
    eval_crop_ratio: Annotated[float, Range("[0.1, 1]")]
    interpolation: Annotated[str, Choices(INTERPOLATIONS)]
    decoder: Annotated[str, Choices(DECODERS)]
    rotate: Annotated[int, Choices(ROTATIONS)] = 0
    max_pixels: Annotated[int, Range("[1, 2^40]")] = MAX_PIXELS

    def __post_init__(self) -> None:
        check_fields("data.", self)
        side = eval_short_side(self.image_size, self.eval_crop_ratio)
        if side * side > self.max_pixels:
            raise FieldError(
                f"data.max_pixels {self.max_pixels:,} is less than the {side:,} x {side:,} pixels "
                f"that data.image_size {self.image_size} and data.eval_crop_ratio "
                f"{self.eval_crop_ratio:g} resize images to."
            )
        if self.decoder == "turbo" and turbo.MISSING:
            raise ValueError(
                f"data.decoder 'turbo' needs what is not installed here: {turbo.MISSING}. "
                "Install simplejpeg and cykooz_resizer (requirements.txt), or set "
                "data.decoder=pillow: half as fast, and its pixels differ a little."
            )


def _resize(
    image: np.ndarray, width: int, height: int, how: str, decoder: str = "pillow"
) -> np.ndarray:
    """Resizes (h, w, c) pixels to (height, width, c)."""
    if image.shape[:2] == (height, width):
        return image
    if decoder == "turbo" and image.shape[-1] == 3:
        return turbo.resize(image, width, height, how)
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    pixels = np.asarray(picture.resize((width, height), INTERPOLATIONS[how]))
    return pixels[..., None] if grey else pixels


def _random_box(
    height: int, width: int, area_min: float, rng: random.Random
) -> tuple[int, int, int, int]:
    """Draws the box of a random resized crop, as in torchvision: ten tries, then the centre."""
    low, high = _ASPECT_RATIO
    for _ in range(10):
        area = height * width * rng.uniform(area_min, 1.0)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randrange(width - w + 1), rng.randrange(height - h + 1)
            return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


class View(typing.NamedTuple):
    """Random draws for one training view. Lengths are in pixels."""

    box: tuple[int, int, int, int]  # left, top, right, bottom: the part of the image that is used
    shift: tuple[int, int]  # offset of the crop in the padded image: down, right
    flip: bool


def draw_view(height: int, width: int, crops: Crops, rng: random.Random) -> View:
    """Draws a training view of an image of the given size."""
    box, shift = (0, 0, width, height), (0, 0)
    if crops.train_crop == "random_resized":
        box = _random_box(height, width, crops.crop_area_min, rng)
    elif crops.train_crop == "pad" and crops.crop_padding:
        places = 2 * crops.crop_padding + 1
        shift = rng.randrange(places), rng.randrange(places)
    return View(box, shift, bool(crops.flip and rng.random() < crops.flip))


def make_view(
    image: np.ndarray, view: View, crops: Crops, out: np.ndarray, first_row: int = 0
) -> None:
    """Makes a training view of an image's pixels.

    Args:
      image: (h, w, c) uint8, the whole image or some of its rows.
      view: the random draws.
      crops: how to make the view.
      out: (image_size, image_size, c) uint8, filled with the view.
      first_row: row of the whole image at which `image` begins.
    """
    size, pad = crops.image_size, crops.crop_padding
    left, top, right, bottom = view.box
    # Crop before resizing, so that pixels outside the crop have no influence.
    image = image[top - first_row : bottom - first_row, left:right]
    image = _resize(image, size, size, crops.interpolation, crops.decoder)
    if crops.train_crop == "pad" and pad:
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        down, right = view.shift
        image = padded[down : down + size, right : right + size]
    if view.flip:
        for channel in range(image.shape[-1]):  # six times faster than all at once
            out[..., channel] = image[:, ::-1, channel]
    else:
        out[...] = image


def train_views(
    record: dict[str, typing.Any],
    channels: int,
    origin: str,
    crops: Crops,
    rngs: Sequence[random.Random],
    outs: Sequence[np.ndarray],
) -> None:
    """Decodes a record, only as far as needed, and makes training views.

    Args:
      record: as in `decode`.
      channels: as in `decode`.
      origin: as in `decode`.
      crops: how to make the views.
      rngs: one generator per view.
      outs: one (image_size, image_size, channels) uint8 array per view, filled with the views.

    Raises:
      BrokenImageError: as in `decode`; but the "turbo" decoder does not always notice damage in
        the middle of a file, outside the rows that the crops need.
    """
    image = record["image"]
    turbo_reads = crops.decoder == "turbo" and channels == 3 and isinstance(image, bytes)
    # In a rotated image, the rows of a crop may be columns of the file, so decode all of it.
    header = jpeg.read_header(image) if turbo_reads and not crops.rotate else None
    if header is None or header.width * header.height > crops.max_pixels:
        pixels = rotated(decode(record, channels, origin, crops.max_pixels), crops)
        first_row = 0
        views = [draw_view(pixels.shape[0], pixels.shape[1], crops, rng) for rng in rngs]
    else:
        views = [draw_view(header.height, header.width, crops, rng) for rng in rngs]
        top, bottom = min(view.box[1] for view in views), max(view.box[3] for view in views)
        # If libjpeg finds an error, Pillow decodes the file: it reports the error or tolerates it.
        found = turbo.decode(image, header, top, bottom)
        pixels, first_row = found or (decode(record, channels, origin, crops.max_pixels), 0)
    for view, out in zip(views, outs, strict=True):
        make_view(pixels, view, crops, out, first_row)


def rotated(image: np.ndarray, crops: Crops) -> np.ndarray:
    """Rotates an image (h, w, c) counter-clockwise by `crops.rotate` degrees."""
    return np.rot90(image, crops.rotate // 90)


def eval_short_side(image_size: int, crop_ratio: float) -> int:
    """Returns the short side after the evaluation's resize, in pixels, as in DeiT and timm."""
    return max(image_size, int(image_size / crop_ratio))


def eval_geometry(
    height: int, width: int, image_size: int, crop_ratio: float
) -> tuple[int, int, int, int]:
    """Returns how the evaluation resizes and crops an image; all in pixels.

    The integer arithmetic equals the reference's: `eval_short_side`, torchvision's `Resize`, which
    rounds the long side down, and its `CenterCrop`, which rounds an offset of half a pixel to the
    even number.

    Returns:
      Height and width after the resize, and the top and left edge of the central square of side
      image_size.
    """
    short_side = eval_short_side(image_size, crop_ratio)
    height, width = (side * short_side // min(height, width) for side in (height, width))
    top, left = (round((side - image_size) / 2) for side in (height, width))
    return height, width, top, left


def eval_view(image: np.ndarray, crops: Crops) -> np.ndarray:
    """Resizes the short side to image_size / eval_crop_ratio and takes the central square.

    Args:
      image: (h, w, c) uint8, any size.

    Returns:
      (image_size, image_size, c) uint8; `eval_geometry` defines the rounding.

    Raises:
      BrokenImageError: the image is so long that it has too many pixels after the resize.
    """
    image, size = rotated(image, crops), crops.image_size
    height, width, _ = image.shape
    height, width, top, left = eval_geometry(height, width, size, crops.eval_crop_ratio)
    check_pixels(width, height, crops.max_pixels, " after the resize of the evaluation")
    image = _resize(image, width, height, crops.interpolation)
    return image[top : top + size, left : left + size]


def read_eval_view(
    record: dict[str, typing.Any], channels: int, origin: str, crops: Crops
) -> np.ndarray:
    """Decodes a record and returns its evaluation view; arguments and errors as in `decode`."""
    pixels = decode(record, channels, origin, crops.max_pixels)
    with naming(record, origin):
        return eval_view(pixels, crops)
