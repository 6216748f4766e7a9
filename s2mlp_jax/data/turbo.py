"""The fast path to a training view: simplejpeg decodes, cykooz_resizer resizes.

simplejpeg calls libjpeg-turbo directly, and its pixels equal Pillow's. cykooz_resizer does
Pillow's antialiased resizing with vector instructions; its pixels equal Pillow's up to rounding
(docs/fidelity.md has figures). Both release Python's lock. As the pixels are not quite the same,
the config states which decoder is used: `data.decoder`.
"""

import threading

import numpy as np

from s2mlp_jax.data import jpeg

MISSING = ""  # error text, if a library is not installed
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

_thread = threading.local()  # a resizer keeps scratch memory, which threads must not share


def decode(
    data: bytes, header: jpeg.Header, top: int, bottom: int
) -> tuple[np.ndarray, int] | None:
    """Decodes rows of a JPEG, grey or in colour; it may decode more rows than needed.

    If the end of the file is correct, damage outside these rows is not always noticed.

    Args:
      data: the file.
      header: header of the file.
      top: first row that is needed.
      bottom: row after the last one that is needed.

    Returns:
      (rows, w, 3) uint8 pixels, and the row of the image at which they begin. None if libjpeg
      finds an error in the file, such as a missing end: Pillow then decides whether to refuse it.
    """
    # Subsampled colours of the first and the last row depend on the rows next to them, so these
    # are decoded as well. Blocks of 8 rows show that the colours are not subsampled vertically.
    more = 0 if header.segment == 8 else 1
    top, bottom = max(top - more, 0), min(bottom + more, header.height)
    part = jpeg.cut(data, header, top, bottom) if header.marks else None
    can_stop = header.one_scan and not header.interval and data.endswith(jpeg.END)
    if part or (can_stop and bottom < header.height):
        file, first, rows = part or (jpeg.upper_rows(data, header, bottom), 0, bottom)
        pixels = np.empty((rows, header.width, 3), np.uint8)
        try:
            simplejpeg.decode_jpeg(file, "RGB", buffer=pixels)
        except ValueError as error:
            # All rows are decoded, but libjpeg finds the rest of the file instead of its end.
            if part or not str(error).endswith("extraneous bytes before marker 0xd9"):
                return None
        return pixels, first
    try:
        return simplejpeg.decode_jpeg(data, "RGB"), 0  # warnings of libjpeg are errors
    except ValueError:
        return None


def resize(image: np.ndarray, width: int, height: int, how: str) -> np.ndarray:
    """Resizes (h, w, 3) uint8 pixels, contiguous or not, to (height, width, 3).

    Args:
      how: "bicubic", "bilinear" or "nearest", as in Pillow.
    """
    if not hasattr(_thread, "resizer"):
        _thread.resizer = Resizer()
        _thread.options = {name: ResizeOptions(_ALGORITHMS[name]) for name in _ALGORITHMS}
        _thread.targets = {}
    target = _thread.targets.get((width, height))
    if target is None:
        target = _thread.targets[width, height] = ImageData(width, height, PixelType.U8x3)
    source = ImageData(image.shape[1], image.shape[0], PixelType.U8x3, image.tobytes())
    _thread.resizer.resize(source, target, _thread.options[how])
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, 3)
