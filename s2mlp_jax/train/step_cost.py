"""The cost of the training step: memory from compiling it, time from synthetic images."""

import dataclasses
import math
import re
import statistics
import time
import typing
from collections.abc import Callable

import jax
import numpy as np

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.pipeline import Batch
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.step import make_train_step
from s2mlp_jax.train.step_metrics import IN_FLIGHT

_WARM_UP, _MEASURED = 3, 5

# Floating-point operations per measured step on a CPU: a few seconds of work.
_CPU_FLOPS = 1e11


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs, including batches that wait for their step.

    Attributes:
      total: total as XLA allocates it; more than the sum of the others if arrays are padded.
      working: gradients, activations, and everything else that exists only within the step.
    """

    parameters: int
    optimizer: int
    average: int
    batches: int
    working: int
    total: int


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled training step.

    Attributes:
      memory: None if XLA failed because the device has too little memory.
      refusal: XLA's message in that case.
      flops: floating-point operations on one device as XLA counts its program: a multiply-add
        is two. XLA counts the loop over the parts of a batch once; this is corrected here.
    """

    memory: Memory | None
    refusal: str
    flops: float
    seconds: float


def compile_step(run: Experiment) -> CompiledStep:
    """Compiles a run's training step from shapes alone, without images or weights."""
    start = time.perf_counter()
    jitted = make_train_step(run)
    arguments = run.abstract_step_arguments()
    try:
        compiled = jitted.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = re.sub(r"^RESOURCE_EXHAUSTED: |\s*$", "", str(error).splitlines()[0])
        return CompiledStep(None, refusal, math.nan, time.perf_counter() - start)
    counted = (compiled.cost_analysis() or {}).get("flops", math.nan)
    flops = counted * run.options.train.accumulation_steps
    memory = _memory(run, arguments, compiled.memory_analysis())
    return CompiledStep(memory, "", flops, time.perf_counter() - start)


def bytes_on_a_device(tree: typing.Any) -> int:
    """Returns the bytes on one device of arrays, given as jax.ShapeDtypeStruct with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _memory(run: Experiment, arguments: typing.Any, analysis: typing.Any) -> Memory:
    state, batch, _ = arguments
    held, inputs = bytes_on_a_device(state), bytes_on_a_device(batch)
    parameters = bytes_on_a_device(state.variables)
    average = bytes_on_a_device(state.ema_variables)
    # On a GPU or TPU the reported peak covers everything; on a CPU only the arguments.
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    step = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + new
    step = max(step, getattr(analysis, "peak_memory_in_bytes", 0))
    return Memory(
        parameters=parameters,
        optimizer=held - parameters - average,
        average=average,
        batches=(1 + IN_FLIGHT) * inputs,
        working=step - analysis.argument_size_in_bytes,
        total=step + IN_FLIGHT * inputs,
    )


class Times(typing.NamedTuple):
    """Seconds per training step and per whole evaluation, and how they were measured."""

    step: float
    evaluation: float
    how: str


def measure(run: Experiment) -> Times:
    """Measures steps on synthetic images, on the devices of the run, which must be present.

    On a CPU, where a step of a large model takes minutes, two smaller batches are measured and
    extrapolated linearly to the run's batch size.
    """
    batch_size, devices = run.options.train.batch_size, run.layout.mesh.size
    on_cpu = run.layout.mesh.devices.flat[0].platform == "cpu"
    flops = 2 * run.macs_per_image  # per image, forward
    least = math.lcm(devices, 2)  # even, since mixing uses pairs
    small = least * max(1, int(_CPU_FLOPS / (3 * flops * least)))
    how = f"the median of {_MEASURED} steps on synthetic images"
    if not on_cpu or batch_size <= 2 * small:
        step = _step_seconds(run)
    else:
        one, two = (_step_seconds(_with_batch(run, size)) for size in (small, 2 * small))
        step = max(two, one + (two - one) * (batch_size / small - 1))
        how += f" at batches of {small} and {2 * small}, scaled to {batch_size}"

    eval_size = run.eval_batch_size
    if on_cpu:
        eval_size = min(eval_size, devices * max(1, int(_CPU_FLOPS / (flops * devices))))
    evaluation = _eval_seconds(run, eval_size) * math.ceil(len(run.eval_split) / eval_size)
    if run.options.train.ema_decay > 0:
        evaluation *= 2
    return Times(step, evaluation, how)


def _with_batch(run: Experiment, batch_size: int) -> Experiment:
    changes = {"train.batch_size": batch_size, "train.accumulation_steps": 1}
    return dataclasses.replace(run, config=config_lib.override(run.config, changes))


def _step_seconds(run: Experiment) -> float:
    step = make_train_step(run)
    batch = devices_lib.shard_batch(run.layout, noise(run, run.options.train.batch_size))
    state = run.draw_state()

    def take_step() -> typing.Any:
        nonlocal state
        state, metrics = step(state, batch, run.key)
        return metrics

    return _median_seconds(take_step)


def _eval_seconds(run: Experiment, batch_size: int) -> float:
    batch = devices_lib.shard_batch(run.layout, noise(run, batch_size, mask=True))
    variables = run.draw_state().variables
    return _median_seconds(lambda: run.eval_step(variables, batch))


def noise(run: Experiment, batch_size: int, mask: bool = False) -> Batch:
    """Returns this process's part of a batch of noise; `mask` adds an evaluation's mask."""
    rng, size = np.random.default_rng(0), run.options.data.image_size
    local = len(devices_lib.local_positions(run.layout, batch_size))
    shape = (local, size, size, run.train_split.channels)
    batch = {
        "image": rng.integers(0, 256, shape, np.uint8),
        "label": rng.integers(0, run.model.num_classes, local, np.int32),
    }
    return {**batch, "mask": np.ones(local, bool)} if mask else batch


def _median_seconds(function: Callable[[], typing.Any]) -> float:
    seconds = []
    for _ in range(_WARM_UP + _MEASURED):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARM_UP:])
