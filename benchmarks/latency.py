"""Latency of an exported S²-MLP in JAX, StableHLO, ONNX Runtime and PyTorch.

    python -m benchmarks.latency --output=results/latency.md

Runs on the CPU; needs requirements-export.txt. Measures one call of each format that
`python -m s2mlp_jax.export` writes, from images in memory to logits in memory, in float32. A
format whose logits differ from the model's by more than 1e-4 is not timed.
"""

import functools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.export
import numpy as np
import onnxruntime
import torch

import s2mlp_jax
from benchmarks import common
from s2mlp_jax.export import onnx, pytorch, stablehlo

IMAGE_SIZE = 224
Call = Callable[[np.ndarray], Any]


def candidates(name: str, folder: pathlib.Path, threads: int) -> dict[str, Call]:
    """Exports a model to every format; returns a function from images to logits per format."""
    model = s2mlp_jax.create_model(name)
    rng = np.random.default_rng(0)
    # Initial norms have scale 1 and bias 0, and the deep model's branches are nearly 0: add noise.
    variables = jax.tree.map(
        lambda x: (
            np.asarray(x + 0.1 * rng.standard_normal(x.shape), np.float32)
            if x.ndim == 1
            else np.asarray(x)
        ),
        s2mlp_jax.init(model, jax.random.key(0), IMAGE_SIZE),
    )
    for exporter in (stablehlo, onnx, pytorch):
        exporter.write(folder, model, variables, IMAGE_SIZE, 3)
    on_device = jax.device_put(variables)
    jitted = jax.jit(functools.partial(model.apply, train=False))
    exported = jax.export.deserialize(bytearray((folder / stablehlo.FILE).read_bytes()))
    from_file = jax.jit(exported.call)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    path = str(folder / onnx.FILE)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    torch.set_num_threads(threads)
    module = pytorch.load_code(folder).load(folder)

    def in_torch(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():  # the images are (b, c, h, w) as a view, without a copy
            return module(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()

    return {
        "JAX": lambda images: np.asarray(jitted(on_device, images)),
        "StableHLO": lambda images: np.asarray(from_file(images)),
        "ONNX Runtime": lambda images: session.run(["logits"], {"images": images})[0],
        "PyTorch": in_torch,
    }


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=15)
    parser.add_argument(
        "--model", default="s2mlp_deep", help="variant to measure; default s2mlp_deep"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 64])
    arguments = parser.parse_args()
    note, head = common.keep_memory(), common.header(f"Latency of {arguments.model}, exported")
    threads = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        calls = candidates(arguments.model, pathlib.Path(folder), threads)
        for batch_size in arguments.batch_sizes:
            shape = (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)
            images = np.random.default_rng(1).standard_normal(shape, np.float32)
            expected = calls["JAX"](images)
            for name, call in calls.items():
                difference = np.abs(call(images) - expected).max()
                if not difference <= 1e-4:
                    raise ValueError(f"{name}'s logits are {difference:.1e} off.")
            figures = common.alternate(
                {name: common.seconds(call, images) for name, call in calls.items()},
                arguments.rounds,
            )
            for name, seconds in figures.items():
                rows.append(
                    [
                        f"{name}, batch {batch_size}",
                        common.milliseconds(seconds),
                        f"{batch_size / np.median(seconds):.1f}",
                        common.ratio(seconds, figures["JAX"]),
                    ]
                )
    columns = ["", "ms per call", "images/s", "time / JAX's"]
    versions = f"onnxruntime {onnxruntime.__version__}, PyTorch {torch.__version__}"
    text = (
        f"{versions}, {threads} threads each. {IMAGE_SIZE} pixels, float32, random images. Medians "
        f"over {arguments.rounds} rounds, each of which calls every candidate once, in random "
        "order; the inter-quartile range is in brackets. Ratios are medians of the ratios per "
        f"round. {note}"
    )
    common.publish([head, text, common.table(columns, rows)], arguments.output)


if __name__ == "__main__":
    main()
