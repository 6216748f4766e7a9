"""Restores a run from one of its checkpoints, and evaluates it, also on other data."""

import pathlib
import time
import typing

import jax
import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax.progress import say
from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.files import append_json_line, local_path
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train import describe
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.state import TrainState


class Restored(typing.NamedTuple):
    """A checkpoint and its run; nothing in the run's folder was changed.

    Attributes:
      run: the run as trained, but with the data and evaluation of another config, if one was given.
      step: step of the checkpoint.
    """

    run: Experiment
    state: TrainState
    step: int

    @property
    def variables(self) -> dict[str, typing.Any]:
        """The variables that a run is evaluated with: their average, if one is kept."""
        return self.state.ema_variables or self.state.variables


def restore_run(
    workdir: str | pathlib.Path,
    checkpoint: str = "latest",
    config: ml_collections.ConfigDict | None = None,
) -> Restored:
    """Restores a checkpoint of a run, for any use except further training.

    Args:
      workdir: folder of a run.
      checkpoint: "latest", "best", or a step.
      config: config to take `data` and `eval` from, such as another data.image_size; the run's own
        by default. Each data field that differs from the run's is printed.

    Raises:
      ValueError: if there is no run or no such checkpoint, data are missing, the config is of
        another model, or the weights do not fit the image size.
    """
    workdir = local_path(workdir)
    own = config_lib.complete(RunFolder(workdir).read_config())
    if config is not None:
        _check_size(own, config)
        config = config_lib.complete(config)
        different = config_lib.differences(own.to_dict(), config)
        if models := [field for field in different if field.startswith("model.")]:
            raise ValueError(f"{workdir} holds another model: {'; '.join(models)}.")
        for field in different:
            if field.startswith("data."):
                say(f"Differs from training: {field}.")
        changed = {**own.to_dict(), "data": config.data.to_dict(), "eval": config.eval.to_dict()}
        own = config_lib.complete(ml_collections.ConfigDict(changed))
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.find(checkpoint)
    run = create_experiment(own, for_training=False)
    state, _ = checkpoints.restore(step, like=run.abstract_state())
    return Restored(run, state, step)


def evaluate_workdir(
    workdir: str | pathlib.Path,
    checkpoint: str = "latest",
    config: ml_collections.ConfigDict | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint, and appends the result to `eval.jsonl`.

    Args:
      workdir: as in `restore_run`.
      checkpoint: as in `restore_run`.
      config: as in `restore_run`.

    Returns:
      The metrics, as in the run's own evaluations.

    Raises:
      ValueError: as `restore_run` does.
    """
    workdir = local_path(workdir)
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
        file = RunFolder(workdir).evaluations_file
        try:
            append_json_line(file, line)
        except OSError as error:  # such as a read-only disk
            say(f"{file} was not extended: {error.strerror}.")
    return result


def _check_size(own: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError for another image size, if the weights fit one size only."""
    trained = config_lib.to_options(own)
    try:
        trained.model.variant.check_other_size(trained.data.image_size, config.data.image_size)
    except ValueError as error:
        raise ValueError(f"data.{error}") from None
