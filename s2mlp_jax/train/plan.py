"""Predicts the memory, time and disk space of a run, and what to change if it does not fit.

The real step is compiled and, if the devices are present, measured. Nothing is written.
"""

import math
import typing
from collections.abc import Generator, Iterator, Mapping

import jax
import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax.data import sources
from s2mlp_jax.data.known_sizes import placeholder_split
from s2mlp_jax.data.names import base_name
from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.progress import duration, human_size
from s2mlp_jax.train import describe
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.data_sheets import data_sheet
from s2mlp_jax.train.devices import PlannedDevices, memory_limit
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.step_cost import CompiledStep, bytes_on_a_device, compile_step, measure

# Fewer images than this per device and part do not keep a device busy: the last resort.
_FEW_IMAGES = 8

Overrides = dict[str, typing.Any]
Splits = tuple[sources.Split, sources.Split]


def plan(
    config: ml_collections.ConfigDict,
    devices: PlannedDevices,
    device_memory_gib: float = 0.0,
) -> Iterator[str]:
    """Yields the lines of a plan, each as soon as it is known.

    Args:
      config: config of the run.
      devices: devices to plan for, from `find_devices`.
      device_memory_gib: memory that a program may use on one device; 0 asks the device.

    Raises:
      ValueError: if the config is bad, or the data are neither prepared nor of known size.
    """
    config = config_lib.complete(config)
    options = config_lib.to_options(config)
    splits = _find_splits(options.data)
    run = create_experiment(config, devices.devices, splits=splits)
    limit = int(device_memory_gib * 2**30) or memory_limit(devices)
    yield from describe.start(run, 0)
    if devices.absent:
        yield f"          stated: {devices.absent}"
    if options.train.dtype == "bfloat16" and not _has_bfloat16(run):
        yield (
            f"advice    {devices.devices[0].device_kind} has no bfloat16 units: "
            "--config.train.dtype=float32 is faster there, and takes more memory"
        )

    step = compile_step(run)
    yield _compiled_line(run, step)
    yield from _memory_lines(step, limit)
    if not _fits(step, limit):
        yield "          what takes less, compiled in turn, of what a device has:"
        changes = yield from _search(run, splits, limit or 0)
        if changes is None:
            yield "advice    nothing tried fits: take more devices, or a smaller train.batch_size"
            yield "time      not measured: it does not fit"
            return
        yield f"advice    it fits with {_flags(changes)}"
        run = _change(run, changes, splits)

    evaluations, saves = (
        sum(run.is_due(step, every) for step in range(1, run.total_steps + 1))
        for every in (options.eval.every_epochs, options.checkpoint.every_epochs)
    )
    yield (
        f"run       {run.total_steps:,} steps, {run.total_steps * options.train.batch_size:,} "
        f"images, {evaluations:,} evaluations, {saves:,} checkpoints"
    )
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(run.abstract_state()))
    kept = options.checkpoint.keep + 1
    yield (
        f"disk      {human_size(kept * state)} for checkpoints: the last {options.checkpoint.keep} "
        f"and the best, {human_size(state)} each; {human_size((kept + 1) * state)} while one is "
        "being replaced"
    )
    if devices.absent:
        yield f"time      not measured: {devices.absent}"
        return
    times = measure(run)
    total = run.total_steps * times.step + evaluations * times.evaluation
    yield (
        f"time      {duration(total)}: {run.total_steps:,} steps of {duration(times.step)} and "
        f"{evaluations:,} evaluations of {duration(times.evaluation)}; {times.how}"
    )
    yield (
        "          compiling, saving and waiting for data are not in it: the data must come at "
        f"{options.train.batch_size / times.step:,.0f} images/s"
    )


def _find_splits(data: DataOptions) -> Splits:
    """Opens the data if they are prepared; otherwise uses their known size. Prepares nothing."""
    folder = sources.resolve_data_dir(data.data_dir) / base_name(data.name)

    def find(split: str) -> sources.Split:
        known = None if folder.exists() else placeholder_split(data.name, split)
        opened = known or sources.open_split(data.name, split, data.data_dir)
        return opened.read_with(data.channels)

    return find(data.train_split), find(data.eval_split)


def _compiled_line(run: Experiment, step: CompiledStep) -> str:
    parts, images = run.options.train.accumulation_steps, run.options.train.batch_size
    expected = 6 * run.macs_per_image * images / run.layout.mesh.size
    counted = f"{step.flops / 1e9:,.4g} GFLOP" if step.memory else "unknown FLOPs"
    return (
        f"compiled  in {step.seconds:.0f} s: {counted} per step and device, as XLA counts it"
        + (f" (the loop over the parts {parts} times)" if parts > 1 else "")
        + f"; {expected / 1e9:,.4g} by 6 x multiply-accumulates x images"
    )


def _memory_lines(step: CompiledStep, limit: int | None) -> Iterator[str]:
    has = human_size(limit) if limit else "unknown; state it with --device_memory_gib=16"
    memory = step.memory
    if memory is None:
        yield f"memory    does not fit: {step.refusal}"
        return
    yield (
        f"memory    on each device: parameters {human_size(memory.parameters)}, "
        f"optimizer {human_size(memory.optimizer)}, average {human_size(memory.average)}, "
        f"batches {human_size(memory.batches)}, "
        f"gradients and activations {human_size(memory.working)}"
    )
    verdict = "" if limit is None else ": it fits" if _fits(step, limit) else ": DOES NOT FIT"
    yield f"          together {human_size(memory.total)}; a device has {has}{verdict}"


def _fits(step: CompiledStep, limit: int | None) -> bool:
    return step.memory is not None and (limit is None or step.memory.total <= limit)


def _search(run: Experiment, splits: Splits, limit: int) -> Generator[str, None, Overrides | None]:
    """Compiles changes that save memory, the cheapest first; returns the first that fits.

    Each set of changes adds one to the previous set. For each set it looks for the fewest parts
    of the batch that fit. A set that does not fit with the smallest parts is skipped.
    """
    train, devices = run.options.train, run.layout.mesh.size
    measures: Overrides = {}
    if not train.remat:
        measures["train.remat"] = True
    if train.dtype == "float32" and _has_bfloat16(run):
        measures["train.dtype"] = "bfloat16"
    if devices > 1 and not train.shard_state:
        measures["train.shard_state"] = True
    sets: list[Overrides] = [dict(list(measures.items())[:n]) for n in range(len(measures) + 1)]
    if bytes_on_a_device(run.abstract_state()) > limit > 0:  # then only sharding helps
        sets = [{"train.shard_state": True, **some} for some in sets[:-1]]

    # Mixing uses pairs of images, so the size of a part is even.
    least = math.lcm(devices, 2)
    all_parts = []
    parts = train.accumulation_steps
    while train.batch_size % (parts * least) == 0:
        all_parts.append(parts)
        parts *= 2
    enough = [n for n in all_parts if train.batch_size // n >= _FEW_IMAGES * devices]

    for i, some in enumerate(sets):
        usual = all_parts if i == len(sets) - 1 else enough
        changes = [
            {"train.accumulation_steps": n, **some} if n > train.accumulation_steps else some
            for n in usual
        ]
        changes = [change for change in changes if change]
        low, high, fits = 0, len(changes) - 1, False
        middle = high  # the smallest parts first
        while low <= high:
            step = compile_step(_change(run, changes[middle], splits))
            total = human_size(step.memory.total) if step.memory else "too much"
            fits = _fits(step, limit or None)
            yield f"          {total:>10}  {_flags(changes[middle])}{'  fits' if fits else ''}"
            if not fits and middle == len(changes) - 1:
                break
            low, high = (low, middle - 1) if fits else (middle + 1, high)
            middle = (low + high) // 2
        else:
            if changes:
                return changes[low]
    return None


def _has_bfloat16(run: Experiment) -> bool:
    sheet = data_sheet(run.layout.mesh.devices.flat[0])
    return sheet is None or sheet.dtype == "bfloat16"


def _change(run: Experiment, changes: Overrides, splits: Splits) -> Experiment:
    config = config_lib.override(run.config, changes)
    return create_experiment(config, list(run.layout.mesh.devices.flat), splits=splits)


def _flags(changes: Mapping[str, typing.Any]) -> str:
    return " ".join(f"--config.{field}={value}" for field, value in changes.items())
