"""Compares the predictions of a trained model in every export format, on all evaluation images.

    python -m benchmarks.exported RUN --output=results/exported.md

RUN is the folder of a run of main.py; needs requirements-export.txt. Each format is written by
`python -m s2mlp_jax.export` and run in a new process in an empty folder, without this package.
Only the format "folder" is read by this package.
"""

import argparse
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

import s2mlp_jax
from benchmarks import common
from s2mlp_jax import config as config_lib
from s2mlp_jax.data.decoding import decode
from s2mlp_jax.data.sources import Split
from s2mlp_jax.export.export_model import FORMATS
from s2mlp_jax.saved.pretrained import Pretrained
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train.create import open_data

# Programs from images to logits, as on the card of each format; MODEL is the exported folder.
_PROGRAMS = {
    "folder": """
import s2mlp_jax
model, variables, *_ = s2mlp_jax.load("MODEL")
logits = model.apply(variables, images, train=False)
""",
    "stablehlo": """
import pathlib, jax
model = jax.export.deserialize(bytearray(pathlib.Path("MODEL/model.stablehlo").read_bytes()))
logits = model.call(images)
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession("MODEL/model.onnx")
(logits,) = session.run(["logits"], {"images": images})
""",
    "torch": """
import torch
sys.path.append("MODEL")
import s2mlp
logits = s2mlp.load("MODEL").eval()(torch.from_numpy(images).permute(0, 3, 1, 2))
logits = logits.detach().numpy()
""",
}


def run_elsewhere(kind: str, model: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Runs an exported model in a new process, outside this repository.

    Args:
      kind: one of `FORMATS`.
      model: the exported folder.
      images: (b, h, w, c), float32, normalised.

    Returns:
      Logits (b, classes).

    Raises:
      subprocess.CalledProcessError: if the program fails.
    """
    program = f'import sys, numpy as np\nimages = np.load("images.npy")\n{_PROGRAMS[kind]}'
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if kind == "folder":
        environment["PYTHONPATH"] = str(common.ROOT)
    else:
        program += 'assert not [name for name in sys.modules if name.startswith("s2mlp_jax")]\n'
    program += 'np.save("logits.npy", logits)\n'
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "MODEL").symlink_to(model.absolute())
        np.save(place / "images.npy", images)
        subprocess.run([sys.executable, "-c", program], cwd=place, env=environment, check=True)
        return np.load(place / "logits.npy")


def read_images(loaded: Pretrained, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the preprocessed images (n, h, w, c) of a split, and their labels (n,)."""
    preprocess, examples = loaded.preprocess, [split.source[i] for i in range(len(split))]
    decoded = (decode(example, preprocess.channels, split.name) for example in examples)
    labels = np.array([example["label"] for example in examples])
    return np.stack([preprocess(image) for image in decoded]), labels


def main() -> None:
    """Exports a run, runs all formats, and writes the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--output", metavar="FILE.md", help="also write the report there")
    arguments = parser.parse_args()
    loaded = s2mlp_jax.load(arguments.run)
    config = config_lib.complete(RunFolder(pathlib.Path(arguments.run)).read_config())
    _, split = open_data(config_lib.to_options(config).data)
    images, labels = read_images(loaded, split)
    expected = np.asarray(loaded.model.apply(loaded.variables, images, train=False))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            model = pathlib.Path(folder) / kind
            export = [sys.executable, "-m", "s2mlp_jax.export", arguments.run, str(model)]
            command = [*export, f"--format={kind}"]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, cwd=common.ROOT
            )
            told = re.search(r"largest difference of a logit (\S+), (\d+) images", done.stdout)
            assert told is not None
            logits = run_elsewhere(kind, model, images)
            rows.append(
                [
                    kind,
                    f"{told[1]} over {told[2]}",
                    f"{np.abs(logits - expected).max():.1e}",
                    f"{(logits.argmax(1) == expected.argmax(1)).sum()} of {len(labels)}",
                    f"{(logits.argmax(1) == labels).mean():.2%}",
                    f"{sum(path.stat().st_size for path in model.iterdir()):,}",
                ]
            )
    columns = ["format", "largest difference it told", "largest difference here"]
    columns += ["same class", "top-1", "bytes"]
    packages = ("jax2onnx", "onnxruntime", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    text = (
        f"{versions}. {split.name}, {len(labels)} images; the model itself has "
        f"{(expected.argmax(1) == labels).mean():.2%}. Logits are up to "
        f"{np.abs(expected).max():.1f}. Each format ran in a fresh process and an empty folder; "
        "but for the first one, this package could not be imported there."
    )
    head = common.header("A trained model in every format")
    common.publish([head, text, common.table(columns, rows)], arguments.output)


if __name__ == "__main__":
    main()
