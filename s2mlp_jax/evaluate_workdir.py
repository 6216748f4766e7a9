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
      config: takes `data` and `eval` from here, such as another data.image_size; the run's own
        by default. Where they differ from the run's, that is said.

    Returns:
      The metrics, as in the run's own evaluations.

    Raises:
      ValueError: no run there, no such checkpoint, or a config of another model.
    """
    workdir = pathlib.Path(workdir).absolute()
    own = config_lib.complete(read_config(workdir))
    if config is not None:
        config = config_lib.complete(config)
        different = config_lib.differences(own.to_dict(), config)
        if models := [field for field in different if field.startswith("model.")]:
            raise ValueError(f"{workdir} holds another model: {'; '.join(models)}.")
        for field in different:
            if field.startswith("data."):
                say(f"Not as in training: {field}.")
        with own.unlocked():
            own.data, own.eval = config.data, config.eval
    checkpoints = Checkpoints(workdir, read_only=True)
    step = _find_step(checkpoints, checkpoint)
    run = create_experiment(own, for_training=False)
    state, _ = checkpoints.restore(step, like=run.abstract_state())
    result = run.evaluate(state)
    size = own.data.image_size
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
