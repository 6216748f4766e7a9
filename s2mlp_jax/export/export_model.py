"""Exports a model to a folder, also in formats of other programs, and runs the result."""

import datetime
import itertools
import os
import pathlib
import shutil
import types

import jax
import numpy as np

from s2mlp_jax.cli import ExitCode
from s2mlp_jax.data.decoding import BrokenImageError
from s2mlp_jax.data.image_files import find_files
from s2mlp_jax.export import onnx, pytorch, stablehlo
from s2mlp_jax.export.common import require
from s2mlp_jax.export.model_card import LICENSE, write_card
from s2mlp_jax.models import Model, build
from s2mlp_jax.saved import pretrained
from s2mlp_jax.saved.model_folder import ModelFolder, write_description, write_model_folder
from s2mlp_jax.saved.preprocessing import Preprocessing

TOLERANCE = 1e-4  # largest allowed difference of a float32 logit
_IMAGES = 8  # number of images to compare on

FORMATS: tuple[str, ...] = ("folder", "stablehlo", "onnx", "torch")
_EXPORTERS: dict[str, types.ModuleType] = {
    "stablehlo": stablehlo,
    "onnx": onnx,
    "torch": pytorch,
}
_USAGE = {
    "folder": """
```python
import numpy as np, s2mlp_jax

model, variables, preprocess, class_names = s2mlp_jax.load("FOLDER")
images = np.stack([preprocess("image.jpg")])
logits = model.apply(variables, images, train=False)  # (1, classes)
class_names[int(logits[0].argmax())]
```

    python -m s2mlp_jax.predict FOLDER image.jpg
""",
    "stablehlo": """
`model.stablehlo` needs jax alone, for CPUs, NVIDIA GPUs and TPUs. Images are (b, h, w, c), float32,
normalised; any number at once.

```python
import pathlib, jax

model = jax.export.deserialize(bytearray(pathlib.Path("FOLDER/model.stablehlo").read_bytes()))
logits = model.call(images)  # (b, classes)
```

EXPIRY
""",
    "onnx": """
Images are (b, h, w, c), float32, normalised; any number at once.

```python
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(logits,) = session.run(["logits"], {"images": images})  # (b, classes)
```
""",
    "torch": """
`s2mlp.py` needs PyTorch alone. Images are (b, c, h, w), float32, normalised.

```python
import sys

sys.path.append("FOLDER")
import s2mlp

model = s2mlp.load("FOLDER").eval()
logits = model(images)  # (b, classes)
```
""",
}


class DifferentError(RuntimeError):
    """The exported model computes other logits than the original."""

    exit_code = ExitCode.WRONG_NUMBERS


def export_model(
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    kind: str = "folder",
    checkpoint: str = "",
    weights: str = "average",
    images: str = "",
    license_name: str = LICENSE,
    image_size: int | None = None,
) -> tuple[float, int]:
    """Exports a model to a folder, completely or not at all.

    Args:
      source: folder of a model or a run, as for `s2mlp_jax.load`.
      output: folder that does not exist yet or is empty.
      kind: one of `FORMATS`.
      checkpoint: checkpoint of a run, as for `s2mlp_jax.load`.
      weights: which weights of a run, as for `s2mlp_jax.load`.
      images: file or folder of images to compare on; default: scikit-learn's.
      license_name: licence of the weights, for the card.
      image_size: image size of the exported model in pixels; default: the training size.

    Returns:
      The largest difference between the logits of the model and of the exported model, and the
      number of images compared.

    Raises:
      ValueError: no such model or format, the format does not support the model, a package is
        missing, the folder is not empty, an image cannot be read, or the weights do not fit the
        image size.
      DifferentError: the difference is above `TOLERANCE`; no files are left behind.
    """
    if kind not in FORMATS:
        raise ValueError(f"Unknown format {kind!r}. Allowed are {', '.join(FORMATS)}.")
    for package in _EXPORTERS[kind].NEEDS if kind in _EXPORTERS else ():
        require(package, f"--format={kind}")
    output = pathlib.Path(output).absolute()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"{output} is there already: take another folder.")
    content = pretrained.read(source, checkpoint, weights, image_size)
    pretrained.check_fit(content.weights, content.preprocessing.channels, source)
    model = build(content.weights.variant, content.weights.num_classes)
    pixels = _compare_on(images, content.preprocessing)
    incomplete = output.with_name(f"incomplete.{output.name}")
    shutil.rmtree(incomplete, ignore_errors=True)
    try:
        incomplete.mkdir(parents=True)
        usage = _USAGE[kind].replace("EXPIRY", stablehlo.expiry(datetime.date.today()))
        card = write_card(content, output.name, usage, license_name)
        # On a CPU, as accelerators may compute float32 products in lower precision.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            expected = model.apply(content.weights.variables, pixels, train=False)
            got = _write_and_run(incomplete, kind, content, card, model, pixels)
        difference = float(np.max(np.abs(np.asarray(expected) - got)))
        if not difference <= TOLERANCE:  # also true for NaN
            raise DifferentError(
                f"What --format={kind} wrote computes something else than the model: logits differ "
                f"by up to {difference:.1e}, and {TOLERANCE:g} is allowed."
            )
        os.replace(incomplete, output)
    except OSError as error:
        raise ValueError(f"{output} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)
    return difference, len(pixels)


def _write_and_run(
    folder: pathlib.Path,
    kind: str,
    content: ModelFolder,
    card: str,
    model: Model,
    images: np.ndarray,
) -> np.ndarray:
    """Writes a format, reads its files back, and returns their logits for the images."""
    if kind == "folder":
        write_model_folder(folder, content, card)
        loaded = pretrained.load(folder, dtype=np.float32)
        return np.asarray(loaded.model.apply(loaded.variables, images, train=False))
    exporter = _EXPORTERS[kind]
    write_description(folder, content, card)
    how = content.preprocessing
    exporter.write(folder, model, content.weights.variables, how.image_size, how.channels)
    return exporter.run(folder, images)


def _compare_on(path: str, preprocess: Preprocessing) -> np.ndarray:
    """Returns preprocessed images from a path, or scikit-learn's two photographs and digits."""
    if not path:
        from sklearn.datasets import load_sample_images

        from s2mlp_jax.data.digits import load_digits

        images = [*load_sample_images().images, *load_digits()[0]][:_IMAGES]
        return np.stack([preprocess(image) for image in images])
    files = list(itertools.islice(find_files([path]), _IMAGES))
    if not files:
        raise ValueError(f"--images: there is no file in {path}.")
    made = []
    for file in files:
        try:
            made.append(preprocess(file))
        except BrokenImageError as error:
            raise ValueError(f"--images: {error}") from error
    return np.stack(made)
