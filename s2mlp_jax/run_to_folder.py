"""A run, turned into what a model's folder holds."""

import json
import pathlib
import typing

import jax
import numpy as np

from s2mlp_jax import config as config_lib
from s2mlp_jax.model_folder import ModelFolder
from s2mlp_jax.models.variants import field_types
from s2mlp_jax.preprocessing import Preprocessing
from s2mlp_jax.restore import Restored, restore_run
from s2mlp_jax.weights_file import Weights

# Of a config, what a reader of the card wants to know first.
_RECIPE = (
    "seed",
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
        Preprocessing(
            data.image_size, data.eval_crop_ratio, data.interpolation, data.mean, data.std
        ),
        run.eval_split.class_names,
        _training(workdir, restored, "eval_ema" if averaged else "eval"),
    )


def _training(workdir: pathlib.Path, restored: Restored, prefix: str) -> dict[str, typing.Any]:
    """Returns what the card says of a run: JSON."""
    run, step = restored.run, restored.step
    environment = json.loads((workdir / "environment.json").read_text())
    data, recipe = run.describe_data(), config_lib.flatten(run.config.to_dict())
    return {
        "data": {part: data[part] for part in ("train", "eval")},
        "step": step,
        "epoch": step / run.steps_per_epoch,
        "finished": step == run.total_steps,
        "weights": "average" if prefix == "eval_ema" else "last",
        "parameters": run.parameters,
        "macs": run.macs_per_image,
        "recipe": {field: recipe[field] for field in _RECIPE},
        "evaluation": _evaluation(workdir, step, prefix),
        "environment": {
            key: environment[key]
            for key in ("git_commit", "python", "versions", "processor", "devices", "processes")
        },
    }


def _evaluation(workdir: pathlib.Path, step: int, prefix: str) -> dict[str, float]:
    """Returns what these weights reached on the run's own evaluation split; {} if not evaluated."""
    found: dict[str, float] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        figures = json.loads(line)
        if figures["step"] == step and f"{prefix}/count" in figures:
            names = ("accuracy_top1", "accuracy_top5", "loss", "count")
            found = {name: figures[f"{prefix}/{name}"] for name in names}
    return found
