"""The quick way to a training view: simplejpeg decodes, cykooz_resizer resizes.

simplejpeg is libjpeg-turbo without detours; cykooz_resizer does Pillow's arithmetic, antialiasing
and all, with vector instructions. Both work outside Python's lock. They differ from Pillow by
little (docs/fidelity.md), but they differ, so a config says which is used: `data.decoder`.
"""

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

_thread = threading.local()  # a resizer keeps scratch memory, which threads must not share


def decode(data: bytes) -> np.ndarray | None:
    """Decodes a JPEG to (h, w, 3) uint8, a grey one too.

    Returns:
      None for what is Pillow's to decode or to refuse: another format, CMYK, and any file with
      which libjpeg finds a fault, a missing end among them.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        colours = simplejpeg.decode_jpeg_header(data)[2]
        if colours in ("CMYK", "YCCK"):
            return None
        return simplejpeg.decode_jpeg(data, "RGB")  # strict: warnings are errors
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
