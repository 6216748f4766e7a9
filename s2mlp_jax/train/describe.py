"""Messages that a run prints: at the start, during training, and at the end."""

import pathlib
import sys
from collections.abc import Iterator, Mapping

import jax

from s2mlp_jax.train import optim
from s2mlp_jax.train.data_sheets import data_sheet
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.step_metrics import StepMetrics

# Fraction of the time that the devices may wait for data before a message reports it.
_WORTH_TELLING = 0.01


def start(run: Experiment, step: int) -> Iterator[str]:
    """Yields the lines that describe a run before it starts."""
    options, devices = run.options, run.layout.mesh.devices
    data, train = options.data, options.train
    yield (
        f"model     {options.model.name}: {run.parameters:,} parameters, "
        f"{run.macs_per_image:,} multiply-accumulates per {data.image_size}x{data.image_size} image"
    )
    read = {0: "", 1: "read grey, ", 3: "read in colour, "}[data.channels]
    yield (
        f"data      {run.train_split.name}: {len(run.train_split):,} images, "
        f"{run.eval_split.name}: {len(run.eval_split):,}, {run.model.num_classes} classes, "
        f"{read}from {run.train_split.path}"
    )
    if data.place != "host" or run.place.on_device:
        yield f"          {run.place.why}"
    sheet = data_sheet(devices.flat[0])
    yield (
        f"devices   {devices.size} x {devices.flat[0].device_kind}, {jax.process_count()} "
        f"process(es), {train.dtype}"
        + (
            f"; MFU is against {sheet.peak_flops / 1e12:.0f} TFLOP/s each, dense {sheet.dtype}"
            if sheet
            else ""
        )
    )
    yield (
        f"steps     {run.total_steps:,} of {train.batch_size} images"
        + (f" in {train.accumulation_steps} parts" if train.accumulation_steps > 1 else "")
        + f", {run.total_steps / run.steps_per_epoch:.1f} epochs"
    )
    yield (
        f"rate      {optim.peak_learning_rate(options):g} at its peak "
        f"({options.optimizer.learning_rate:g} for a batch of "
        f"{options.optimizer.reference_batch_size or train.batch_size}), "
        f"weight decay {options.optimizer.weight_decay:g}"
    )
    for line in optim.describe_groups(options.freeze, run.abstract_state().params):
        yield f"          {line}"
    yield from weights(run, step)
    if step:
        yield f"resume    from step {step:,}"


def weights(run: Experiment, step: int) -> Iterator[str]:
    """Yields the lines about the initial weights, if a new run reads them from another model."""
    if not step and (initial := run.initial_weights()) is not None:
        for i, line in enumerate(initial.notes):
            yield f"{'' if i else 'weights':<10}{line}"


def train_figures(averages: Mapping[str, float]) -> str:
    """Formats the averages of a training line."""
    mfu = f"  MFU {averages['mfu']:.1%}" if "mfu" in averages else ""
    rate, waited = averages["images_per_second"], ""
    if averages["data_wait"] >= _WORTH_TELLING:
        waited = f"  waited {averages['data_wait_seconds']:.1f} s for data"
        waited += f" ({averages['data_wait']:.0%} of the time)"
    return (
        f"epoch {averages['epoch']:.1f}  loss {averages['loss']:.4f}  "
        f"{rate:{',.0f' if rate >= 10 else '.2g'}} images/s{mfu}{waited}"
    )


def data_report(metrics: StepMetrics) -> Iterator[str]:
    """Yields warnings about the training data: too slow, or broken images."""
    if metrics.waited > _WORTH_TELLING * metrics.seconds:
        yield (
            f"data      the devices waited {metrics.waited:.1f} s for batches, "
            f"{metrics.waited / metrics.seconds:.0%} of {metrics.seconds:.1f} s: more cores, a "
            "smaller copy of the data set (s2mlp_jax.data.prepare --short_side), or a larger "
            "data.prefetch if the waits are short"
        )
    if metrics.corrupt_images:
        yield (
            f"data      {metrics.corrupt_images:,} broken training images were left out, and "
            "others taken in their place (data.on_corrupt=skip)"
        )


def eval_figures(evaluation: Mapping[str, float]) -> str:
    """Formats the metrics of an evaluation, also of the averaged parameters if there are any."""
    broken = evaluation.get("eval/corrupt_images", 0)
    return "  ".join(
        f"{prefix} top-1 {evaluation[f'{prefix}/accuracy_top1']:.2%}  "
        f"top-5 {evaluation[f'{prefix}/accuracy_top5']:.2%}  "
        f"loss {evaluation[f'{prefix}/loss']:.4f}"
        for prefix in ("eval", "eval_ema")
        if f"{prefix}/count" in evaluation
    ) + (f"  ({broken:,} broken images left out)" if broken else "")


def summary(run: Experiment, evaluation: Mapping[str, float], workdir: pathlib.Path) -> list[str]:
    """Returns the closing lines: the result, where the files are, and what to do next."""
    python = pathlib.Path(sys.executable)
    here = pathlib.Path.cwd()
    command = python.relative_to(here) if python.is_relative_to(here) else "python"
    lines = [
        "",
        f"Trained {run.options.model.name} for {run.total_steps:,} steps: "
        f"{eval_figures(evaluation)}, over {evaluation['eval/count']:,} images.",
        f"Files: {workdir} (metrics.jsonl, config.json, environment.json, checkpoints/, ...).",
        f"Next: {command} main.py --mode=eval --workdir={workdir} evaluates the checkpoint again.",
    ]
    if any(workdir.glob("events.out.tfevents.*")):
        lines.append(f"      {command} -m tensorboard.main --logdir={workdir} draws the curves.")
    return lines
