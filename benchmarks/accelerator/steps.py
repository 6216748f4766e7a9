"""Training and inference of whole models: images per second, utilisation, memory, compilation."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import s2mlp_jax
from benchmarks import steps
from benchmarks.accelerator import timing
from benchmarks.accelerator.schedule import Options, Record
from s2mlp_jax.models.cost import variant_cost
from s2mlp_jax.train.data_sheets import data_sheet

IMAGE_SIZE, CLASSES = 224, 1000


def fields(name: str, depth: int) -> dict[str, Any]:
    """Returns the fields of a variant without drop path and with `depth` blocks per stage."""
    changed: dict[str, Any] = {"drop_path": 0.0}
    if depth:
        variant = s2mlp_jax.create_model(name).variant
        changed["depth"] = min(depth, variant.depth)
        changed["later_depths"] = tuple(min(depth, n) for n in variant.later_depths)
    return changed


def utilisation(images_per_second: float, name: str, depth: int, passes: int) -> float | None:
    """Returns the model FLOPs utilisation in percent; None if the device's peak is unknown.

    Args:
      passes: cost in forward passes: 1 for inference, 3 for training.
    """
    sheet = data_sheet(jax.devices()[0])
    if sheet is None:
        return None
    model = s2mlp_jax.create_model(name, CLASSES, **fields(name, depth))
    cost = variant_cost(model.variant, IMAGE_SIZE, CLASSES, 3)
    flops = passes * 2 * (cost.macs + cost.attention_macs)
    return 100 * images_per_second * flops / sheet.peak_flops


def data(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns normalised images of noise (b, 224, 224, 3) and labels (b,)."""
    rng = np.random.default_rng(0)
    shape = (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)
    return rng.standard_normal(shape, np.float32), rng.integers(0, CLASSES, batch_size)


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the figures of training a model, then those of its inference.

    Halves the batch size as long as the memory is too small.
    """
    for batch_size in timing.batches(options.batch_size):
        try:
            yield from _measure(options, name, batch_size)
            return
        except jax.errors.JaxRuntimeError as error:
            if not timing.out_of_memory(error):
                raise
            jax.clear_caches()


def _measure(options: Options, name: str, batch_size: int) -> Iterator[Record]:
    changed = fields(name, options.depth)
    model = s2mlp_jax.create_model(name, CLASSES, options.dtype, **changed)
    variables = s2mlp_jax.init(model, jax.random.key(0), IMAGE_SIZE)
    images, labels = data(batch_size)
    for kind, passes in (("training", 3), ("inference", 1)):
        if kind == "training":
            step = steps.training(model, variables, images, labels)
        else:
            step = steps.inference(model, variables, images)
        times = timing.by_turns({"": step.call}, options.seconds, options.rounds)[""]
        rate = batch_size / float(np.median(times))
        figures = {
            f"{kind}, images/s": rate,
            f"{kind} MFU, %": utilisation(rate, name, options.depth, passes),
            f"{kind} temporaries, GiB": step.temporaries / 2**30,
        }
        if kind == "training":
            figures["training peak, GiB"] = timing.peak_gib()
            figures["trace, s"] = step.trace_seconds
            figures["compile, s"] = step.compile_seconds
        yield {"name": name, "batch": batch_size, **figures}
        del step
