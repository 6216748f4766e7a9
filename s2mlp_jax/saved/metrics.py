"""Writes metrics as JSON lines and to TensorBoard; reads them."""

import importlib.util
import json
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence

from s2mlp_jax.data.tensorflow import import_tensorflow
from s2mlp_jax.saved.files import Folder, read_json_lines, write_text


class MetricsWriter:
    """Writes `metrics.jsonl`, one line per call, and TensorBoard events if available.

    Attributes:
      lines: number of lines in the file.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int, tensorboard: bool) -> None:
        """Opens the files of a run that continues after `resume_step`.

        Drops the lines of later steps, which an interrupted run wrote: those steps are repeated.
        """
        path = Folder(workdir).metrics_file
        kept = [line for line in read_metrics(path) if line["step"] <= resume_step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.lines = len(kept)
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(workdir) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line, {"step": step, **metrics}."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self.lines += 1
        if self._board:
            self._board.write_scalars(step, dict(metrics))

    def sync(self) -> None:
        """Flushes all lines to disk; call it before saving a checkpoint."""
        os.fsync(self._file.fileno())
        if self._board:
            self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, typing.Any]]:
    """Reads the lines of `metrics.jsonl`; skips those that cannot be read or have no step.

    A resumed run reports how many lines it misses.
    """
    return [line for line in read_json_lines(path) if type(line.get("step")) is int]


def judged_by(evaluation: Mapping[str, typing.Any]) -> str:
    """Returns the prefix of the metrics to report: those of the averaged parameters, if present.

    Args:
      evaluation: metrics that `evaluate` returned, such as "eval/count".
    """
    return "eval_ema" if "eval_ema/count" in evaluation else "eval"


def training_seconds(
    lines: Sequence[Mapping[str, typing.Any]], batch_size: int, after_step: int = 0
) -> float:
    """Computes a run's training time in seconds, without data waits, from its metrics."""
    seconds, before = 0.0, after_step
    for line in lines:
        if "train/images_per_second" in line and line["step"] > after_step:
            images = (line["step"] - before) * batch_size
            seconds += images / line["train/images_per_second"] - line["train/data_wait_seconds"]
            before = line["step"]
    return seconds


def _tensorboard(workdir: pathlib.Path) -> typing.Any | None:
    """Returns clu's TensorBoard writer, or None where TensorFlow or TensorBoard is missing."""
    if not all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard", "clu")):
        return None
    import_tensorflow()
    from clu import metric_writers

    return metric_writers.SummaryWriter(str(workdir))
