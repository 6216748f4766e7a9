"""A run, turned into what a model's folder holds."""

import json
import pathlib
import typing

import jax
import ml_collections
import numpy as np

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.split import public_name
from s2mlp_jax.metrics import read_metrics
from s2mlp_jax.model_folder import ModelFolder
from s2mlp_jax.models.variants import field_types
from s2mlp_jax.preprocessing import Preprocessing
from s2mlp_jax.restore import Restored, restore_run
from s2mlp_jax.weights_file import Weights
from s2mlp_jax.workdir import read_config

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
    """Reads a checkpoint; the data it was trained on need not be there.

    Args:
      last: the weights of the last step, also where their average was kept.

    Raises:
      ValueError: as `restore_run` does.
    """
    restored = restore_run(workdir, checkpoint, with_data=False)
    run = restored.run
    variables = restored.state.variables if last else restored.variables
    variant, data = run.model.variant, run.config.data
    averaged = restored.state.ema_params is not None and not last
    return ModelFolder(
        Weights(
            jax.tree.map(np.asarray, jax.device_get(variables)),
            run.config.model.name,
            run.model.num_classes,
            data.image_size,
            {field: getattr(variant, field) for field in field_types()},
        ),
        _preprocessing(data),
        run.eval_split.class_names,
        _training(workdir, restored, "eval_ema" if averaged else "eval"),
    )


def describe_run(workdir: pathlib.Path) -> tuple[str, dict[str, typing.Any], Preprocessing]:
    """Returns a run's model, its fields, and its preprocessing, from its config alone."""
    config = config_lib.complete(read_config(workdir))
    fields = {field: config.model[field] for field in field_types()}
    return config.model.name, fields, _preprocessing(config.data)


def _preprocessing(data: ml_collections.ConfigDict) -> Preprocessing:
    return Preprocessing(
        data.image_size,
        data.eval_crop_ratio,
        data.interpolation,
        data.mean,
        data.std,
        rotate=data.rotate,
    )


def _training(workdir: pathlib.Path, restored: Restored, prefix: str) -> dict[str, typing.Any]:
    """Returns what the card says of a run: JSON."""
    run, step = restored.run, restored.step
    data, recipe = run.describe_data(), config_lib.flatten(run.config.to_dict())
    recipe["init_from"] = pathlib.PurePath(recipe["init_from"]).name  # not where it lies
    return {
        "data": {
            part: {**data[part], "name": public_name(data[part]["name"])}
            for part in ("train", "eval")
        },
        "step": step,
        "epoch": step / run.steps_per_epoch,
        "finished": step == run.total_steps,
        "weights": "average" if prefix == "eval_ema" else "last",
        "parameters": run.parameters,
        "macs": run.macs_per_image,
        "recipe": {field: recipe[field] for field in _RECIPE},
        "evaluation": _evaluation(workdir, step, prefix),
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
