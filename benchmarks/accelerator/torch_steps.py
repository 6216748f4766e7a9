"""The steps of `benchmarks.accelerator.steps` in PyTorch, compiled."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import s2mlp_jax
from benchmarks import common, torch_models
from benchmarks import steps as jax_steps
from benchmarks.accelerator import timing
from benchmarks.accelerator.schedule import Options, Record
from benchmarks.accelerator.steps import CLASSES, data, fields, utilisation
from s2mlp_jax.models.variants import get_variant


def make_model(name: str, depth: int) -> torch.nn.Module:
    """Returns a model with random weights.

    Raises:
      ValueError: if its number of parameters differs from the JAX model's.
    """
    changed = fields(name, depth)
    if name in torch_models.TIMM:
        import timm  # only these models need it

        model = timm.create_model(torch_models.TIMM[name], num_classes=CLASSES)
    else:
        model = torch_models.Model(get_variant(name, **changed), CLASSES)
    ours = s2mlp_jax.count_parameters(name, CLASSES, **changed)
    theirs = sum(parameter.numel() for parameter in model.parameters())
    if ours != theirs:
        raise ValueError(f"{name} has {ours:,} parameters here, and {theirs:,} in PyTorch.")
    return model


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the figures of training a model, then those of its inference."""
    for batch_size in timing.batches(options.batch_size):
        try:
            yield from _measure(options, name, batch_size)
            return
        except RuntimeError as error:
            if not timing.out_of_memory(error):
                raise
            torch.cuda.empty_cache()


def _measure(options: Options, name: str, batch_size: int) -> Iterator[Record]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    low = options.dtype == "bfloat16"
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as jax does by default
    # channels_last is the fastest layout for convolutions.
    layout = torch.channels_last if name.startswith("resnet") else torch.contiguous_format
    model = make_model(name, options.depth).to(device, memory_format=layout)
    arrays = data(batch_size)
    images = torch.from_numpy(arrays[0]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    images, labels = images.to(device), torch.from_numpy(arrays[1]).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        jax_steps.LEARNING_RATE,
        weight_decay=jax_steps.WEIGHT_DECAY,
        fused=True,
    )
    forward = torch.compile(model, backend="inductor" if device == "cuda" else "eager")

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=low):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=low):
            forward(images)

    for kind, passes, call in (("training", 3, train), ("inference", 1, infer)):
        model.train(kind == "training")
        start = time.perf_counter()
        call()
        _wait(device)
        compiled = time.perf_counter() - start
        times = common.alternate({"": _per_call(call, device, options.seconds)}, options.rounds, 0)
        rate = batch_size / float(np.median(times[""]))
        figures: dict[str, Any] = {
            f"{kind}, images/s": rate,
            f"{kind} MFU, %": utilisation(rate, name, options.depth, passes),
        }
        if kind == "training":
            peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
            figures |= {"training peak, GiB": peak, "first step, s": compiled}
        yield {"name": f"{name}, torch.compile", "batch": batch_size, **figures}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _per_call(call: Callable[[], None], device: str, seconds: float) -> Callable[[], float]:
    """Returns a measurement of one call, as `timing.per_call` does."""
    start = time.perf_counter()
    call()
    _wait(device)
    count = max(1, round(seconds / (time.perf_counter() - start)))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        _wait(device)
        return (time.perf_counter() - start) / count

    return measure
