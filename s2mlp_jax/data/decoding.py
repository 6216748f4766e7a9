"""From the file of an image to its pixels, whatever the file holds.

The files may come from strangers: every decoder has one limit of pixels, read from the header
before anything is decoded, only regular files are read, and whatever Pillow raises is one error.
"""

import contextlib
import errno
import io
import os
import pathlib
import stat
import typing
from collections.abc import Iterator

import numpy as np
from PIL import Image

# Default of data.max_pixels: what Pillow refuses by itself, so what evaluation always refused. An
# image of that size takes 540 MB in colour, for each thread that decodes.
MAX_PIXELS = 178_956_970

# What to do about a broken image in training and evaluation.
ON_CORRUPT: tuple[str, ...] = ("stop", "skip")

# Pillow's grey modes of more than 8 bits. Pillow's conversion to 8 bits clips them at 255.
CUT_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

# Errors that say something about this process, and nothing about the file.
_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

ImageFile = str | pathlib.Path | typing.IO[bytes]


class BrokenImageError(ValueError):
    """A file is not a complete image, or not one that is read.

    Attributes:
      reason: what is wrong with it, without the file's name.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def read_file(path: str | pathlib.Path) -> bytes:
    """Returns the bytes of a regular file; reading a pipe or a device may never end.

    Raises:
      BrokenImageError: there is no such file, it is of another kind, or it may not be read.
      OSError: this process cannot open any more files.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read()
        reason = "it is not a regular file"
    except OSError as error:
        if error.errno in _NOT_THE_FILE:
            raise
        reason = f"it cannot be read ({error.strerror})"
    raise BrokenImageError(f"{path}: {reason}.", reason)


@contextlib.contextmanager
def open_image(file: ImageFile, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens an image with Pillow; no pixel is decoded before it is asked for.

    Raises:
      BrokenImageError: at the start and inside of the `with`, whatever Pillow raises.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        # Pillow has one limit for the whole process, and warns at half of it. It stays for images
        # inside of other files, where the header does not say their size.
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        content = io.BytesIO(read_file(file)) if isinstance(file, str | pathlib.Path) else file
        with Image.open(content) as image:
            check_pixels(*image.size, max_pixels)
            yield image
    except BrokenImageError:
        raise
    except Image.UnidentifiedImageError as error:  # its text names the buffer in memory
        raise BrokenImageError("it is no image of a format that Pillow reads") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImageError(
            f"it has more than the {max_pixels:,} pixels that are read (data.max_pixels)"
        ) from error
    except Exception as error:  # damage makes Pillow raise anything: TypeError, struct.error, ...
        text = " ".join(str(error).split())
        if not isinstance(error, OSError | SyntaxError | ValueError) or not text:
            text = f"Pillow fails on it ({type(error).__name__}: {text})"
        raise BrokenImageError(text) from error


def check_pixels(width: int, height: int, max_pixels: int, when: str = "") -> None:
    """Checks the size of an image before it is made.

    Args:
      when: completes "it has 5 x 5 pixels", if that is not its own size.

    Raises:
      BrokenImageError: it has too many pixels.
    """
    if width * height > max_pixels:
        raise BrokenImageError(
            f"it has {width:,} x {height:,} pixels{when}, and at most {max_pixels:,} are read "
            "(data.max_pixels)"
        )


def read_pixels(
    image: ImageFile | Image.Image, channels: int, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Reads an image file or a Pillow image to (h, w, channels) uint8, as `decode` does.

    Raises:
      BrokenImageError: it is not a complete image, has more than 8 bits per pixel, or has too many
        pixels.
    """
    if not isinstance(image, Image.Image):
        with open_image(image, max_pixels) as opened:
            return read_pixels(opened, channels)
    if image.mode in CUT_MODES:
        raise BrokenImageError(
            f"it has more than 8 bits a pixel (Pillow's mode {image.mode}), and Pillow makes white "
            "of all but its 255 darkest levels; save such images with 8 bits"
        )
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


def decode(
    record: dict[str, typing.Any], channels: int, origin: str, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes a record's image file to (h, w, channels) uint8.

    An image that is already decoded is returned unchanged. An EXIF orientation is ignored, as in
    other readers of ImageNet.

    Args:
      record: {"image": the bytes of a JPEG, PNG, ..., "index": its number}, and a "key" if the
        record has a name. "image" may also be the `BrokenImageError` that reading the file raised.
      channels: 1 or 3; a grey image is repeated to three channels, a CMYK image is converted.
      origin: name of the data set and split, for the message.
      max_pixels: larger images are not decoded.

    Raises:
      BrokenImageError: if the bytes are not a complete image, for example a truncated file.
    """
    image = record["image"]
    if isinstance(image, np.ndarray):
        return image
    with naming(record, origin):
        if isinstance(image, BrokenImageError):
            raise BrokenImageError(image.reason)
        return read_pixels(io.BytesIO(image), channels, max_pixels)


@contextlib.contextmanager
def naming(record: dict[str, typing.Any], origin: str) -> Iterator[None]:
    """Adds the name of the record to a `BrokenImageError`, and what can be done about it."""
    try:
        yield
    except BrokenImageError as error:
        image = record["image"]
        size = f", {len(image)} bytes" if isinstance(image, bytes) else ""
        raise BrokenImageError(
            f"Broken image: {origin}, record {record.get('key', record['index'])}{size}: "
            f"{error.reason}. Prepare the data set again from whole files, or go on without this "
            "one by data.on_corrupt=skip.",
            error.reason,
        ) from error
