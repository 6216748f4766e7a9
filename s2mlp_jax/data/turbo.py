"""The quick way to a training view: simplejpeg decodes, cykooz_resizer resizes.

simplejpeg is libjpeg-turbo without detours, and its pixels are Pillow's. cykooz_resizer does
Pillow's resizing, antialiasing and all, by vector instructions; its pixels are Pillow's up to
rounding (docs/fidelity.md has figures). Both work outside Python's lock. As the pixels are not
quite the same, a config says which are used: `data.decoder`.
"""

import struct
import threading

import numpy as np

MISSING = ""  # why this way is not open, if it is not
try:
    import simplejpeg
    from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
except ImportError as error:
    MISSING = str(error)
else:
    _ALGORITHMS = {
        "bicubic": ResizeAlg.convolution(FilterType.catmull_rom),  # Pillow's bicubic: a = -0.5
        "bilinear": ResizeAlg.convolution(FilterType.bilinear),
        "nearest": ResizeAlg.nearest(),
    }

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # markers of the frames that are read here

_thread = threading.local()  # a resizer keeps scratch memory, which threads must not share


def shape(data: bytes) -> tuple[int, int] | None:
    """Returns the (height, width) of a JPEG that `decode` may read, None for anything else."""
    frame = _frame(data)
    return frame[2:] if frame else None


def decode(data: bytes, rows: int) -> np.ndarray | None:
    """Decodes the upper rows of a JPEG, grey or in colour, to (rows or more, w, 3) uint8.

    In a file that ends as it should, damage below these rows is not seen.

    Returns:
      None for what is Pillow's to decode or to refuse: another format, CMYK, and any file with
      which libjpeg finds a fault, a missing end among them.
    """
    frame = _frame(data)
    if frame is None:
        return None
    marker, position, height, width = frame
    # Rows can be left out where they come one after the other. The last row's colours may be
    # mixed with those of the next, so that one is decoded as well.
    if marker in _SEQUENTIAL and rows + 1 < height and data.endswith(_END):
        shorter = bytearray(data)  # says of itself that it ends there, so that libjpeg stops
        struct.pack_into(">H", shorter, position, rows + 1)
        pixels = np.empty((rows + 1, width, 3), np.uint8)
        try:
            simplejpeg.decode_jpeg(shorter, "RGB", buffer=pixels)
        except ValueError as error:
            # All is decoded; and then libjpeg finds the rest of the file where the end should be.
            if not str(error).endswith("extraneous bytes before marker 0xd9"):
                return None
        return pixels
    try:
        return simplejpeg.decode_jpeg(data, "RGB")  # a warning of libjpeg is an error
    except ValueError:
        return None


def resize(image: np.ndarray, width: int, height: int, how: str) -> np.ndarray:
    """Resizes (h, w, 3) uint8 pixels, contiguous or not, to (height, width, 3).

    Args:
      how: "bicubic", "bilinear" or "nearest", as Pillow does them.
    """
    if not hasattr(_thread, "resizer"):
        _thread.resizer = Resizer()
    source = ImageData(image.shape[1], image.shape[0], PixelType.U8x3, image.tobytes())
    resized = ImageData(width, height, PixelType.U8x3)
    _thread.resizer.resize(source, resized, ResizeOptions(_ALGORITHMS[how]))
    return np.frombuffer(resized.get_buffer(), np.uint8).reshape(height, width, 3)


def _frame(data: bytes) -> tuple[int, int, int, int] | None:
    """Finds the frame header of a JPEG of 8 bits, grey or of three colours.

    Returns:
      Its marker, the position of the height in the file, height and width in pixels.
    """
    if not data.startswith(_START):
        return None
    position = len(_START)
    try:
        while data[position] == 0xFF:
            marker, length = struct.unpack_from(">xBH", data, position)
            if marker in _SEQUENTIAL or marker == _PROGRESSIVE:
                bits, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
                known = bits == 8 and height and width and components in (1, 3)
                return (marker, position + 5, height, width) if known else None
            position += 2 + length
    except (IndexError, struct.error):  # the file ends before
        pass
    return None
