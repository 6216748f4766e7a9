"""Evaluation of a run's checkpoint, also at another image size or on other data."""

import json
import pathlib
import time

import jax
import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax import describe
from s2mlp_jax.checkpoint import Checkpoints
from s2mlp_jax.experiment import create_experiment
from s2mlp_jax.progress import say
from s2mlp_jax.workdir import read_config


def evaluate_workdir(
    workdir: str | pathlib.Path,
    checkpoint: str = "latest",
    config: ml_collections.ConfigDict | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint, and notes the result in `eval.jsonl`.

    Args:
      workdir: of a run.
      checkpoint: "latest", "best", or a step.
      config: the run's own by default. Another may differ in all but the model, such as in
        data.image_size.

    Returns:
      The metrics, as in the run's own evaluations.

    Raises:
      ValueError: no run there, no such checkpoint, or a config of another model.
    """
    workdir = pathlib.Path(workdir).absolute()
    own = read_config(workdir)
    config = config_lib.complete(own if config is None else config)
    different = [d for d in config_lib.differences(own, config) if d.startswith("model.")]
    if different:
        raise ValueError(f"{workdir} holds another model: {'; '.join(different)}.")
    checkpoints = Checkpoints(workdir, read_only=True)
    step = _find_step(checkpoints, checkpoint)
    run = create_experiment(config)
    state, _ = checkpoints.restore(step, like=run.abstract_state())
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
