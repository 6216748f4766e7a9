"""Evaluation of a run's checkpoint, also at another image size or on other data."""

import pathlib
import time

import jax
import ml_collections

from s2mlp_jax.progress import say
from s2mlp_jax.saved.files import Folder, append_json_line
from s2mlp_jax.train import describe
from s2mlp_jax.train.restore import restore_run


def evaluate_workdir(
    workdir: str | pathlib.Path,
    checkpoint: str = "latest",
    config: ml_collections.ConfigDict | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint, and notes the result in `eval.jsonl`.

    Args:
      workdir: as in `restore_run`.
      checkpoint: as in `restore_run`.
      config: as in `restore_run`.

    Returns:
      The metrics, as in the run's own evaluations.

    Raises:
      ValueError: as `restore_run` does.
    """
    workdir = pathlib.Path(workdir).absolute()
    run, state, step = restore_run(workdir, checkpoint, config)
    result = run.evaluate(state)
    size = run.config.data.image_size
    say(f"{workdir}, step {step}, {run.eval_split.name} at {size}x{size} pixels:")
    say(f"{describe.eval_figures(result)}, over {result['eval/count']:,} images")
    if jax.process_index() == 0:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "step": step,
            "data": run.eval_split.name,
            "image_size": size,
            **result,
        }
        append_json_line(Folder(workdir).evaluations_file, line)
    return result
