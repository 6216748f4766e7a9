"""Reads the model of a run, its preprocessing and a record of its training."""

import pathlib
import typing

import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.data.split import public_name
from s2mlp_jax.models.cost import variant_cost
from s2mlp_jax.saved.arrays import flatten
from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.files import read_json
from s2mlp_jax.saved.metrics import read_metrics
from s2mlp_jax.saved.model_folder import ModelFolder
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.saved.untrusted import check_values
from s2mlp_jax.saved.weights_file import Weights

# Config fields shown on the model card.
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
    """Reads a model from a run's folder: config, description of the data, and weights.

    Args:
      checkpoint: "latest", "best", or a step.
      last: read the weights of the last step even if averaged weights were kept.

    Raises:
      ValueError: the folder is not a run's, no such checkpoint, or a file cannot be read.
    """
    folder = RunFolder(workdir.absolute())
    config, data = config_lib.complete(folder.read_config()), folder.read_data()
    options = config_lib.to_options(config)
    checkpoints = Checkpoints(folder.path, read_only=True)
    step = checkpoints.find(checkpoint)
    variables, averaged = checkpoints.read_variables(step, last)
    check_values(flatten(variables), f"Checkpoint {step} in {checkpoints.directory}")
    class_names = tuple(data["class_names"])
    weights = Weights(
        variables,
        options.model.name,
        len(class_names),
        options.data.image_size,
        options.model.variant.fields(),
    )
    training = _training(folder, config, data, weights, step, averaged)
    preprocessing = _preprocessing(options.data)
    return ModelFolder(weights, preprocessing, class_names, options.train.dtype, training)


def describe_run(workdir: pathlib.Path) -> tuple[str, dict[str, typing.Any], Preprocessing]:
    """Returns a run's model name, model fields and preprocessing; reads only the config."""
    options = config_lib.to_options(config_lib.complete(RunFolder(workdir).read_config()))
    model = options.model
    return model.name, model.variant.fields(), _preprocessing(options.data)


def _preprocessing(data: DataOptions) -> Preprocessing:
    return Preprocessing(
        data.image_size,
        data.eval_crop_ratio,
        data.interpolation,
        data.mean,
        data.std,
        rotate=data.rotate,
    )


def _training(
    folder: RunFolder,
    config: ml_collections.ConfigDict,
    data: dict[str, typing.Any],
    weights: Weights,
    step: int,
    averaged: bool,
) -> dict[str, typing.Any]:
    """Returns the training record for the model card, as JSON values."""
    recipe = config_lib.flatten(config.to_dict())
    recipe["init_from"] = pathlib.PurePath(recipe["init_from"]).name  # the name, not the local path
    options = config_lib.to_options(config)
    total_steps, steps_per_epoch = options.count_steps(data["train"]["images"])
    cost = variant_cost(weights.variant, weights.image_size, weights.num_classes, data["channels"])
    return {
        "data": {
            part: {**data[part], "name": public_name(data[part]["name"])}
            for part in ("train", "eval")
        },
        "step": step,
        "epoch": step / steps_per_epoch,
        "finished": step == total_steps,
        "weights": "average" if averaged else "last",
        "parameters": cost.parameters,
        "macs": cost.macs + cost.attention_macs,
        "recipe": {field: recipe[field] for field in _RECIPE},
        "evaluation": _evaluation(folder, step, "eval_ema" if averaged else "eval"),
        "environment": _environment(folder),
    }


def _environment(folder: RunFolder) -> dict[str, typing.Any]:
    """Reads the environment of the run's last start, or {} if none was recorded."""
    if not folder.environment_file.exists():
        return {}
    recorded = read_json(folder.environment_file)
    keys = ("git_commit", "python", "versions", "processor", "devices", "processes")
    return {key: recorded[key] for key in keys}


def _evaluation(folder: RunFolder, step: int, prefix: str) -> dict[str, float]:
    """Reads the run's own evaluation of these weights, or {} if they were not evaluated."""
    found: dict[str, float] = {}
    for figures in read_metrics(folder.metrics_file):
        if figures["step"] == step and f"{prefix}/count" in figures:
            names = ("accuracy_top1", "accuracy_top5", "loss", "count")
            found = {name: figures[f"{prefix}/{name}"] for name in names}
    return found
