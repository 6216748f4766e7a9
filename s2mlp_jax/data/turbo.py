"""The quick way to a training view: simplejpeg decodes, cykooz_resizer resizes.

simplejpeg is libjpeg-turbo without detours, and its pixels are Pillow's. cykooz_resizer does
Pillow's resizing, antialiasing and all, by vector instructions; its pixels are Pillow's up to
rounding (docs/fidelity.md has figures). Both work outside Python's lock. As the pixels are not
quite the same, a config says which are used: `data.decoder`.
"""

import threading

import numpy as np

from s2mlp_jax.data import jpeg

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

_thread = threading.local()  # a resizer keeps scratch memory, which threads must not share


def decode(
    data: bytes, header: jpeg.Header, top: int, bottom: int
) -> tuple[np.ndarray, int] | None:
    """Decodes rows of a JPEG, grey or in colour; more of them than asked for, if need be.

    In a file that ends as it should, damage outside these rows is not always seen.

    Args:
      data: the file.
      header: of the file.
      top: first row that is needed.
      bottom: the one after the last row that is needed.

    Returns:
      (rows, w, 3) uint8 pixels, and which row of the image the first one is. None for what is
      Pillow's to refuse: any file with which libjpeg finds a fault, a missing end among them.
    """
    # The colours of the first and the last row may be mixed with those of the rows next to them,
    # so these are decoded as well; but not where blocks of 8 rows show that colours are whole.
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
            # All is decoded; and then libjpeg finds the rest of the file where the end should be.
            if part or not str(error).endswith("extraneous bytes before marker 0xd9"):
                return None
        return pixels, first
    try:
        return simplejpeg.decode_jpeg(data, "RGB"), 0  # a warning of libjpeg is an error
    except ValueError:
        return None


def resize(image: np.ndarray, width: int, height: int, how: str) -> np.ndarray:
    """Resizes (h, w, 3) uint8 pixels, contiguous or not, to (height, width, 3).

    Args:
      how: "bicubic", "bilinear" or "nearest", as Pillow does them.
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
