"""An image file made smaller, for a copy of a data set that is quicker to read and decode."""

import io

import PIL
from PIL import Image, features

from s2mlp_jax.data.jpeg import add_index

JPEG_QUALITY = 95  # without subsampling of the colours; the table in docs/imagenet.md is why

# Rows of blocks, 8 pixels high, from one restart marker to the next. Between two of them decoding
# may begin; with Huffman tables of its own a file becomes 4 % smaller and 3 % quicker to decode.
RESTART_ROWS = 1


def reduce_image(image: bytes, short_side: int, quality: int, subsampling: int = 0) -> bytes:
    """Returns an image file whose short side has `short_side` pixels at the most.

    One that is no larger comes back byte for byte. Grey images stay grey, CMYK becomes RGB;
    EXIF data (an orientation too, which nobody heeds) and colour profiles are left out.

    Args:
      image: a file, JPEG, PNG, ...; a PNG stays one, everything else becomes a JPEG.
      short_side: pixels; the long side is rounded down, as torchvision does it.
      quality: of a JPEG.
      subsampling: of a JPEG's colours, in Pillow's numbers: 0 is 4:4:4, 2 is 4:2:0.

    Raises:
      OSError, SyntaxError: if it is no whole image.
    """
    picture: Image.Image = Image.open(io.BytesIO(image))
    picture.load()  # a broken image shall be found here, not in training
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
    """Returns what writes the files, to be recorded with them."""
    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"
