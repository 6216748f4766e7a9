"""Reduces image files, for a copy of a data set that is faster to read and decode."""

import io

import PIL
from PIL import Image, features

from s2mlp_jax.data.decoding import open_image
from s2mlp_jax.data.jpeg import add_index

JPEG_QUALITY = 95  # without chroma subsampling; docs/imagenet.md has the reasons in a table

# Rows of blocks, 8 pixels high, between two restart markers. Decoding can begin at any of
# them. With its own Huffman tables, a file becomes 4 % smaller and 3 % faster to decode.
RESTART_ROWS = 1


def reduce_image(image: bytes, short_side: int, quality: int, subsampling: int = 0) -> bytes:
    """Returns an image file whose short side has at most `short_side` pixels.

    An image that is not larger is returned byte for byte. Grey images stay grey, CMYK becomes RGB.
    Colour profiles and EXIF data are dropped, including an orientation, which readers ignore.

    Args:
      image: the bytes of a JPEG, PNG, ...; a PNG stays a PNG, everything else becomes a JPEG.
      short_side: pixels; the long side is rounded down, as in torchvision.
      quality: quality of a JPEG.
      subsampling: chroma subsampling of a JPEG, in Pillow's numbers: 0 is 4:4:4, 2 is 4:2:0.

    Raises:
      BrokenImageError: if it is not a complete image, or too large.
    """
    with open_image(io.BytesIO(image)) as opened:
        opened.load()  # finds a broken image here, not in training
        picture: Image.Image = opened
    short = min(picture.size)
    if short <= short_side:
        return image
    width, height = (max(short_side, side * short_side // short) for side in picture.size)
    is_png = picture.format == "PNG"
    if not is_png and picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if is_png:
        picture.save(file, "PNG")
    else:
        picture.save(file, "JPEG", quality=quality, subsampling=subsampling,
                     optimize=True, restart_marker_rows=RESTART_ROWS)  # fmt: skip
        return add_index(file.getvalue())
    return file.getvalue()


def encoder() -> str:
    """Returns the libraries that write the files, with versions, for the metadata."""
    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"
