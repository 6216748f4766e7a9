"""Inference and training of every family of models against the same models in PyTorch.

    python -m benchmarks.models --output=results/models.md

Runs on the CPU; needs PyTorch and timm in addition to the packages of training. MLP-Mixer,
ResMLP, DeiT and ResNet are timm's, the others are from `benchmarks.torch_models`. Both sides must
have the same number of parameters; with the same weights, the models of `torch_models` must also
give the same logits as the Flax model. A model that differs is not timed.

Inference is the forward pass (PyTorch: `eval()` and `inference_mode()`). A training step is
forward pass, softmax cross-entropy, backward pass and AdamW (optax.adamw in one jitted function
with donated state; the fused torch.optim.AdamW). Drop path is off; images stay in memory.
"""

import argparse
import contextlib
import copy
import gc
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import timm
import torch

import s2mlp_jax
from benchmarks import common, steps, torch_models
from s2mlp_jax.models.variants import get_variant

DEFAULT = (
    "s2mlp_wide,s2mlp_deep,mlp_mixer_s16,mlp_mixer_b16,resmlp_24,s2mlp_v2_small_7,vip_small_7,"
    "as_mlp_t,deit_s,resnet_50"
)
CLASSES = 1000
CANDIDATES = ("JAX", "eager", "compiled")

Measurement = Callable[[], float]


def jax_model(name: str, image_size: int, dtype: str) -> tuple[Any, dict[str, Any]]:
    """Returns a model without drop path, and its variables."""
    model = s2mlp_jax.create_model(name, CLASSES, dtype, drop_path=0.0)
    return model, s2mlp_jax.init(model, jax.random.key(0), image_size)


def torch_model(name: str, variables: Mapping[str, Any], image_size: int) -> torch.nn.Module:
    """Returns the same model in PyTorch, after checking that both agree.

    Raises:
      ValueError: if they differ.
    """
    if name in torch_models.TIMM:
        size = {} if name.startswith("resnet") else {"img_size": image_size}
        model = timm.create_model(torch_models.TIMM[name], num_classes=CLASSES, **size)
    else:
        model = torch_models.Model(get_variant(name), CLASSES)
    ours = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    theirs = sum(parameter.numel() for parameter in model.parameters())
    if ours != theirs:
        raise ValueError(f"{name} has {ours:,} parameters here, and {theirs:,} in PyTorch.")
    if name not in torch_models.TIMM:
        check_logits(name, model, variables, image_size)
    # channels_last is the fastest layout for convolutions; it does not matter for linear layers.
    layout = torch.channels_last if name.startswith("resnet") else torch.preserve_format
    return model.to(memory_format=layout)


def check_logits(
    name: str, model: torch_models.Model, variables: Mapping[str, Any], image_size: int
) -> None:
    """Checks that both models give the same logits for two images.

    Raises:
      ValueError: if the logits differ.
    """
    rng = np.random.default_rng(0)
    # Initial norms have scale 1 and bias 0, and branches may be nearly 0: add noise.
    params = jax.tree.map(
        lambda x: x + 0.05 * rng.standard_normal(x.shape, np.float32), variables["params"]
    )
    torch_models.load(model, params)
    images = rng.standard_normal((2, image_size, image_size, 3), np.float32)
    flax_model, _ = jax_model(name, image_size, "float32")
    expected = np.asarray(flax_model.apply({"params": params}, images, train=False))
    with torch.inference_mode():
        got = model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    error = np.abs(got - expected).max() / np.abs(expected).max()
    if not error < 1e-3:
        raise ValueError(f"{name} in PyTorch gives other logits, by {error:.2g} of the largest.")


def throughput(call: Callable[[], Any], amount: float) -> Measurement:
    """Returns a measurement: `amount` per second of one call, including its result."""

    def measure() -> float:
        start = time.perf_counter()
        call()
        return amount / (time.perf_counter() - start)

    return measure


def until_there(call: Callable[[], Any]) -> Callable[[], Any]:
    """Returns a function that calls `call` and waits for its result."""
    return lambda: jax.block_until_ready(call())


def autocast(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Returns PyTorch's mixed precision context, or one that does nothing for float32."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", torch.bfloat16)


def torch_inference(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: str, compiled: bool
) -> Callable[[], Any]:
    """Returns a function that runs the forward pass."""
    model = model.eval()
    forward = torch.compile(model) if compiled else model

    def call() -> None:
        with torch.inference_mode(), autocast(dtype):
            forward(images)

    return call


def torch_training(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: str, compiled: bool
) -> Callable[[], Any]:
    """Returns a function that takes a training step."""
    model = model.train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(
        model.parameters(), steps.LEARNING_RATE, weight_decay=steps.WEIGHT_DECAY, fused=True
    )

    def call() -> None:
        optimizer.zero_grad()
        with autocast(dtype):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return call


def compare(name: str, args: argparse.Namespace, candidates: Sequence[str]) -> list[list[str]]:
    """Times one model; returns its rows in the tables of inference and of training."""
    model, variables = jax_model(name, args.image_size, args.dtype)
    reference = torch_model(name, variables, args.image_size)
    parameters = sum(parameter.numel() for parameter in reference.parameters())
    layout = torch.channels_last if name.startswith("resnet") else torch.contiguous_format
    rng = np.random.default_rng(0)
    rows = []
    for training in (False, True):
        batch = args.train_batch_size if training else args.batch_size
        images = rng.standard_normal((batch, args.image_size, args.image_size, 3), np.float32)
        labels = rng.integers(0, CLASSES, batch)
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        make_torch = torch_training if training else torch_inference
        ours = (
            steps.training(model, variables, images, labels)
            if training
            else steps.inference(model, variables, images)
        )
        calls: dict[str, Callable[[], Any]] = {"JAX": until_there(ours.call)}
        for candidate in candidates[1:]:
            own = copy.deepcopy(reference)
            compiled = candidate == "compiled"
            calls[candidate] = make_torch(
                own, tensor, torch.from_numpy(labels), args.dtype, compiled
            )
        for call in calls.values():
            call()  # compiles
        measurements = {name: throughput(call, batch) for name, call in calls.items()}
        figures = common.alternate(measurements, args.rounds, warmup=1)
        rows.append(
            [
                name,
                f"{parameters / 1e6:.1f}",
                *(common.median(figures[candidate], digits=1) for candidate in candidates),
                *(common.ratio(figures["JAX"], figures[other]) for other in candidates[1:]),
            ]
        )
    return rows


def product(n: int, inputs: int, outputs: int, rounds: int) -> list[str]:
    """Times the product of a linear layer, which is most of a model's work; returns a table row.

    Its rate is an upper bound for the machine's cores: the closer a model comes to it, the less
    one side can be faster than the other.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, inputs), np.float32)
    kernel = rng.standard_normal((inputs, outputs), np.float32)
    multiply, on_device = jax.jit(jax.numpy.dot), jax.device_put((x, kernel))
    tensors = torch.from_numpy(x), torch.from_numpy(kernel.T.copy())  # in the layout of nn.Linear
    calls: dict[str, Callable[[], Any]] = {
        "JAX": lambda: jax.block_until_ready(multiply(*on_device)),
        "PyTorch": lambda: torch.nn.functional.linear(*tensors),
    }
    gflop = 2e-9 * n * inputs * outputs
    measurements = {name: throughput(call, gflop) for name, call in calls.items()}
    figures = common.alternate(measurements, 5 * rounds)
    cells = [common.median(figures[name], digits=0) for name in calls]
    ratio = common.ratio(figures["JAX"], figures["PyTorch"])
    return [f"{n} x {inputs} by {inputs} x {outputs}", *cells, ratio]


def free() -> None:
    """Frees the compiled functions and memory of a model."""
    jax.clear_caches()
    torch.compiler.reset()
    gc.collect()


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--models", default=DEFAULT, help=f"default {DEFAULT}")
    parser.add_argument(
        "--batch_size", type=int, default=16, help="batch size of inference; default 16"
    )
    parser.add_argument("--train_batch_size", type=int, default=8, help="default 8")
    parser.add_argument("--image_size", type=int, default=224, help="default 224")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--no-compile", action="store_true", help="do not measure torch.compile")
    parser.add_argument(
        "--page_faults", action="store_true", help="do not change malloc on either side"
    )
    args = parser.parse_args()
    if jax.default_backend() != "cpu":
        parser.error("this compares on the CPU: set JAX_PLATFORMS=cpu")
    memory = "malloc is as it is." if args.page_faults else common.keep_memory()
    top = common.header("Models against PyTorch")  # before the work, to report the load of others
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or 1)
    candidates = CANDIDATES[:-1] if args.no_compile else CANDIDATES
    notes = (
        f"PyTorch {torch.__version__}, timm {timm.__version__}. {args.dtype} (PyTorch: "
        f"{'autocast' if args.dtype == 'bfloat16' else 'as it is'}), {args.image_size} pixels, "
        f"{CLASSES} classes, {threads} threads on both sides. Images per second: medians over "
        f"{args.rounds} rounds, each of which measures every candidate once, in random order; the "
        "inter-quartile range is in brackets. Ratios are medians of the ratios per round, JAX's "
        f"images per second over PyTorch's: above 1 JAX is faster. {memory} This applies to both "
        "libraries."
    )
    columns = ["", "parameters, 1e6", *(f"{c}, images/s" for c in candidates)]
    columns += [f"JAX / {c}" for c in candidates[1:]]
    tables: dict[str, list[list[str]]] = {
        f"## Inference, batch {args.batch_size}": [],
        f"## Training, batch {args.train_batch_size}": [],
    }
    sizes = ((1568, 768, 768), (1568, 768, 3072), (4096, 4096, 4096))
    alone = common.table(
        ["", "JAX, GFLOP/s", "PyTorch, GFLOP/s", "JAX / PyTorch"],
        [product(*size, args.rounds) for size in sizes],
    )
    alone = f"## Matrix products alone\n\n{alone}"
    for name in args.models.split(","):
        for rows, row in zip(tables.values(), compare(name, args, candidates), strict=True):
            rows.append(row)
        parts = [f"{title}\n\n{common.table(columns, rows)}" for title, rows in tables.items()]
        common.publish([top, notes, alone, *parts], args.output)  # now: the next model may fail
        free()


if __name__ == "__main__":
    main()
