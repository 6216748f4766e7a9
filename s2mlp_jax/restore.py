"""A run's folder, back to the experiment and the state of one of its checkpoints."""

import json
import pathlib
import typing

import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax.checkpoint import Checkpoints
from s2mlp_jax.data.sources import Split
from s2mlp_jax.experiment import Experiment, create_experiment
from s2mlp_jax.progress import say
from s2mlp_jax.state import TrainState
from s2mlp_jax.workdir import read_config


class Restored(typing.NamedTuple):
    """A checkpoint and what it is of; nothing in its folder was changed.

    Attributes:
      run: as it was trained, with the data and evaluation of another config, if one was given.
      step: of the checkpoint.
    """

    run: Experiment
    state: TrainState
    step: int

    @property
    def variables(self) -> dict[str, typing.Any]:
        """The variables that a run is judged by: their average, where one is kept."""
        return self.state.ema_variables or self.state.variables


def restore_run(
    workdir: str | pathlib.Path,
    checkpoint: str = "latest",
    config: ml_collections.ConfigDict | None = None,
    with_data: bool = True,
) -> Restored:
    """Restores a checkpoint of a run, for anything but to train on.

    Args:
      workdir: of a run.
      checkpoint: "latest", "best", or a step.
      config: takes `data` and `eval` from here, such as another data.image_size; the run's own
        by default. Where they differ from the run's, that is said.
      with_data: False for the model alone: what was noted of the data is then enough, and there
        are no images.

    Raises:
      ValueError: no run there, no such checkpoint, data that are not there, a config of
        another model, or an image size that its weights do not fit.
    """
    workdir = pathlib.Path(workdir).absolute()
    own = config_lib.complete(read_config(workdir))
    if config is not None:
        _check_size(own, config)
        config = config_lib.complete(config)
        different = config_lib.differences(own.to_dict(), config)
        if models := [field for field in different if field.startswith("model.")]:
            raise ValueError(f"{workdir} holds another model: {'; '.join(models)}.")
        for field in different:
            if field.startswith("data."):
                say(f"Not as in training: {field}.")
        with own.unlocked():
            own.data, own.eval = config.data, config.eval
    if not with_data:
        with own.unlocked():
            own.train.shard_state = False  # each process is to have all of it
    checkpoints = Checkpoints(workdir, read_only=True)
    step = _find_step(checkpoints, checkpoint)
    splits = None if with_data else _noted_splits(workdir)
    run = create_experiment(own, for_training=False, splits=splits)
    state, _ = checkpoints.restore(step, like=run.abstract_state())
    return Restored(run, state, step)


class _NoImages:
    """The source of a split that is not here."""

    def __init__(self, name: str, length: int) -> None:
        self._name, self._length = name, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        raise ValueError(f"{self._name} was not opened: it has no images here.")


def _noted_splits(workdir: pathlib.Path) -> tuple[Split, Split] | None:
    """Returns the splits as a run noted them; None for a run from before that was done."""
    path = workdir / "data.json"
    if not path.exists():
        return None
    noted = json.loads(path.read_text())
    names = tuple(noted["class_names"])

    def split(part: dict[str, typing.Any]) -> Split:
        source = _NoImages(part["name"], part["images"])
        return Split(part["name"], source, len(names), noted["channels"], names, "(not opened)")

    return split(noted["train"]), split(noted["eval"])


def _check_size(own: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError for another image size, if the weights fit one size only."""
    variant, trained = config_lib.model_variant(own), own.data.image_size
    try:
        variant.check_other_size(trained, config.data.image_size)
    except ValueError as error:
        raise ValueError(f"data.{error}") from None


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
