"""A run, turned into what a model's folder holds."""

import json
import pathlib
import typing

import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.split import public_name
from s2mlp_jax.models.cost import variant_cost
from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.metrics import read_metrics
from s2mlp_jax.saved.model_folder import ModelFolder
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.run_folder import read_config, read_data
from s2mlp_jax.saved.weights_file import Weights

# Of a config, what a reader of the card wants to know first.
_RECIPE = (
    "seed",
    "init_from",
    "freeze",
    "train.batch_size",
    "train.epochs",
    "train.steps",
    "train.label_smoothing",
    "train.ema_decay",
    "train.dtype",
    "optimizer.learning_rate",
    "optimizer.reference_batch_size",
    "optimizer.warmup_epochs",
    "optimizer.weight_decay",
    "optimizer.layer_decay",
    "data.train_crop",
    "data.flip",
    "data.repeats",
    "augment.randaugment_ops",
    "augment.erasing_prob",
    "augment.mix_prob",
)


def read_run(workdir: pathlib.Path, checkpoint: str, last: bool = False) -> ModelFolder:
    """Reads a model out of a run's folder: its config, its notes, and the weights alone.

    Args:
      checkpoint: "latest", "best", or a step.
      last: the weights of the last step, also where their average was kept.

    Raises:
      ValueError: no run there, no such checkpoint, or a file that cannot be read.
    """
    workdir = workdir.absolute()
    config, noted = config_lib.complete(read_config(workdir)), read_data(workdir)
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.find(checkpoint)
    variables, averaged = checkpoints.read_variables(step, last)
    class_names = tuple(noted["class_names"])
    weights = Weights(
        variables,
        config.model.name,
        len(class_names),
        config.data.image_size,
        _fields(config),
    )
    training = _training(workdir, config, noted, weights, step, averaged)
    return ModelFolder(weights, _preprocessing(config.data), class_names, training)


def describe_run(workdir: pathlib.Path) -> tuple[str, dict[str, typing.Any], Preprocessing]:
    """Returns a run's model, its fields, and its preprocessing, from its config alone."""
    config = config_lib.complete(read_config(workdir))
    return config.model.name, _fields(config), _preprocessing(config.data)


def _fields(config: ml_collections.ConfigDict) -> dict[str, typing.Any]:
    """Returns all fields of a completed config's model."""
    return {field: value for field, value in config.model.to_dict().items() if field != "name"}


def _preprocessing(data: ml_collections.ConfigDict) -> Preprocessing:
    return Preprocessing(
        data.image_size,
        data.eval_crop_ratio,
        data.interpolation,
        data.mean,
        data.std,
        rotate=data.rotate,
    )


def _training(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    noted: dict[str, typing.Any],
    weights: Weights,
    step: int,
    averaged: bool,
) -> dict[str, typing.Any]:
    """Returns what the card says of a run: JSON."""
    recipe = config_lib.flatten(config.to_dict())
    recipe["init_from"] = pathlib.PurePath(recipe["init_from"]).name  # not where it lies
    total_steps, steps_per_epoch = config_lib.count_steps(config, noted["train"]["images"])
    cost = variant_cost(weights.variant, weights.image_size, weights.num_classes, noted["channels"])
    return {
        "data": {
            part: {**noted[part], "name": public_name(noted[part]["name"])}
            for part in ("train", "eval")
        },
        "step": step,
        "epoch": step / steps_per_epoch,
        "finished": step == total_steps,
        "weights": "average" if averaged else "last",
        "parameters": cost.parameters,
        "macs": cost.macs + cost.attention_macs,
        "recipe": {field: recipe[field] for field in _RECIPE},
        "evaluation": _evaluation(workdir, step, "eval_ema" if averaged else "eval"),
        "environment": _environment(workdir),
    }


def _environment(workdir: pathlib.Path) -> dict[str, typing.Any]:
    """Returns with what a run was last started; {} if that is not there."""
    path = workdir / "environment.json"
    if not path.exists():
        return {}
    noted = json.loads(path.read_text())
    keys = ("git_commit", "python", "versions", "processor", "devices", "processes")
    return {key: noted[key] for key in keys}


def _evaluation(workdir: pathlib.Path, step: int, prefix: str) -> dict[str, float]:
    """Returns what these weights reached on the run's own evaluation split; {} if not evaluated."""
    found: dict[str, float] = {}
    for figures in read_metrics(workdir / "metrics.jsonl"):
        if figures["step"] == step and f"{prefix}/count" in figures:
            names = ("accuracy_top1", "accuracy_top5", "loss", "count")
            found = {name: figures[f"{prefix}/{name}"] for name in names}
    return found
