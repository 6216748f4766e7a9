"""Evaluation of a run's checkpoint, also at another image size or on other data."""

import json
import pathlib
import time
import typing
from collections.abc import Mapping

import jax

from s2mlp_jax import config as config_lib
from s2mlp_jax import describe
from s2mlp_jax.checkpoint import Checkpoints
from s2mlp_jax.experiment import create_experiment
from s2mlp_jax.progress import say
from s2mlp_jax.workdir import read_config


def evaluate_workdir(
    workdir: str | pathlib.Path,
    checkpoint: str = "latest",
    overrides: Mapping[str, typing.Any] | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint with the config of its run, and notes the result in `eval.jsonl`.

    Args:
      workdir: of a run.
      checkpoint: "latest", "best", or a step.
      overrides: fields of the config to change, such as {"data.image_size": 288}.

    Returns:
      The metrics, as in the run's own evaluations.

    Raises:
      ValueError: no run there, no such checkpoint, or a bad override.
    """
    workdir = pathlib.Path(workdir).absolute()
    config = config_lib.override(read_config(workdir), overrides or {})
    checkpoints = Checkpoints(workdir, read_only=True)
    step = _find_step(checkpoints, checkpoint)
    run = create_experiment(config)
    state, _ = checkpoints.restore(step, like=run.state)
    result = run.evaluate(state)
    size = config.data.image_size
    say(f"{workdir}, step {step}, {run.eval_split.name} at {size}x{size} pixels:")
    say(f"{describe.eval_figures(result)}, over {result['eval/count']:,} images")
    if jax.process_index() == 0:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "step": step,
            "data": run.eval_split.name,
            "image_size": size,
            "overrides": dict(overrides or {}),
            **result,
        }
        with (workdir / "eval.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return result


def _find_step(checkpoints: Checkpoints, checkpoint: str) -> int:
    steps = checkpoints.steps()
    named = {"latest": steps[-1] if steps else None, "best": checkpoints.best_step()}
    found = named.get(checkpoint, int(checkpoint) if checkpoint.isdigit() else None)
    if found not in steps:
        raise ValueError(
            f"There is no checkpoint {checkpoint!r} in {checkpoints.directory}. "
            f"Allowed are latest, best, {', '.join(map(str, steps)) or '(no step: none saved)'}."
        )
    return found
