"""Writes a model's folder, or a format for other programs, and runs what was written."""

import itertools
import os
import pathlib
import shutil
import types

import jax
import numpy as np

from s2mlp_jax.cli import ExitCode
from s2mlp_jax.data.image_files import find_files
from s2mlp_jax.export import onnx, pytorch, stablehlo
from s2mlp_jax.export.common import require
from s2mlp_jax.export.model_card import LICENSE, write_card
from s2mlp_jax.models import Model, build
from s2mlp_jax.saved import pretrained
from s2mlp_jax.saved.model_folder import ModelFolder, write_description, write_model_folder
from s2mlp_jax.saved.preprocessing import Preprocessing

TOLERANCE = 1e-4  # of a logit, float32
_IMAGES = 8  # to compare on

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
    """What was written computes something else than the model."""

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
    """Writes a folder, all of it or nothing.

    Args:
      source: what `s2mlp_jax.load` takes.
      output: a folder that is not there, or empty.
      kind: one of `FORMATS`.
      checkpoint: checkpoint of a run, as `s2mlp_jax.load` takes it.
      weights: which weights of a run, as `s2mlp_jax.load` takes it.
      images: a file or a folder of images to compare on; scikit-learn's by default.
      license_name: of the weights, for the card.
      image_size: pixels that what is written is for; as trained by default.

    Returns:
      The largest difference of a logit between the model and what was written, and over how many
      images.

    Raises:
      ValueError: no such model or format, a model that the format is not for, a package that is
        missing, a folder that is not empty, images that are none, or an image size that the
        weights do not fit.
      DifferentError: the difference is above `TOLERANCE`; nothing is left.
    """
    if kind not in FORMATS:
        raise ValueError(f"Unknown format {kind!r}. Allowed are {', '.join(FORMATS)}.")
    for package in _EXPORTERS[kind].NEEDS if kind in _EXPORTERS else ():
        require(package, f"--format={kind}")
    output = pathlib.Path(output).absolute()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"{output} is there already: take another folder.")
    content = pretrained.read(source, checkpoint, weights, image_size)
    pretrained.check_fit(content.weights, content.preprocessing.channels)
    model = build(content.weights.variant, content.weights.num_classes)
    pixels = _compare_on(images, content.preprocessing)
    incomplete = output.with_name(f"incomplete.{output.name}")
    shutil.rmtree(incomplete, ignore_errors=True)
    try:
        incomplete.mkdir(parents=True)
        card = write_card(content, output.name, _USAGE[kind], license_name)
        # On a CPU, where float32 is just that; accelerators round its products.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            expected = model.apply(content.weights.variables, pixels, train=False)
            got = _write_and_run(incomplete, kind, content, card, model, pixels)
        difference = float(np.max(np.abs(np.asarray(expected) - got)))
        if not difference <= TOLERANCE:  # NaN is none either
            raise DifferentError(
                f"What --format={kind} wrote says something else than the model: logits differ by "
                f"up to {difference:.1e}, and {TOLERANCE:g} is allowed."
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
    """Writes a format and returns what it makes of images, read back from its files."""
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
    """Returns some real images: of a path, or two photographs and digits of scikit-learn's."""
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
        except Exception as error:  # whatever a broken file makes Pillow raise
            raise ValueError(f"--images: {file} is no image: {error}.") from error
    return np.stack(made)
