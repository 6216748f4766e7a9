"""Configs: loading, completing, checking and comparing them."""

import collections.abc
import copy
import dataclasses
import importlib.util
import json
import pathlib
import sys
import types
import typing

import jax.numpy as jnp
import ml_collections

from s2mlp_jax.cli import parse_overrides
from s2mlp_jax.data.on_device import Augmentation
from s2mlp_jax.data.views import ON_CORRUPT, Crops
from s2mlp_jax.models import Model, build
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import get_variant

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Fields that a run may change when it is continued: they alter no number of it, or, as another
# number of devices does, only the order of its sums.
_FREE_FIELDS = {
    "data.data_dir",
    "data.download",
    "data.cache",
    "data.num_threads",
    "data.prefetch",
    "train.remat",
    "train.shard_state",
    "checkpoint.keep",
    "log.tensorboard",
}


# Fields that configs did not always have, with what runs did before.
_LATER_FIELDS: dict[str, typing.Any] = {
    "init_from": "",
    "freeze": "",
    "data.channels": 0,
    "data.rotate": 0,
    "optimizer.layer_decay": 1.0,
}


def load_config(
    path: str, overrides: collections.abc.Mapping[str, typing.Any] | None = None
) -> ml_collections.ConfigDict:
    """Loads a config file without flags, for notebooks and tests.

    Args:
      path: "configs/s2mlp_digits.py", or "configs/x.py:argument" for one that takes an argument.
      overrides: {"model.shift": "e", "train.epochs": 5.0}.

    Returns:
      The completed, checked and locked config.

    Raises:
      ValueError: no such file or field, a wrong type, or a value that is not allowed.
    """
    return override(_get_config(path), overrides or {})


def override(
    config: ml_collections.ConfigDict, overrides: collections.abc.Mapping[str, typing.Any]
) -> ml_collections.ConfigDict:
    """Returns a completed copy with some fields changed, {"model.shift": "e"}.

    Raises:
      ValueError: no such field, a wrong type, or a value that is not allowed.
    """
    config = copy.deepcopy(config)  # ConfigDict(config) would share its parts
    config.lock()
    for field, value in overrides.items():
        _set_field(config, field, value)
    return complete(config)


def explain_flags(argv: collections.abc.Sequence[str], error: Exception) -> str:
    """Says which `--config.field=value` of a command line is wrong, and what is allowed there.

    Args:
      argv: the command line.
      error: what parsing it raised; its own text is the answer if no field is to blame.
    """
    path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), "")
    if path:
        try:
            config = _get_config(path)  # its own argument may be the wrong one
            changes = [argument for argument in argv if argument.startswith("--config.")]
            for field, value in parse_overrides(changes, "--config.").items():
                _set_field(config, field, value)
        except ValueError as reason:
            return str(reason)
    return str(error.args[0]) if error.args else str(error)


def load_module(path: str) -> tuple[types.ModuleType, tuple[str, ...]]:
    """Runs a config file.

    Args:
      path: "configs/x.py", or "configs/x.py:argument".

    Returns:
      The module, and the arguments, one or none, that its functions are to be called with.

    Raises:
      ValueError: no such file.
    """
    file, colon, argument = path.partition(":")
    location = pathlib.Path(file)
    if not location.is_file():
        raise ValueError(f"There is no config file {file}.")
    for folder in (str(location.resolve().parent.parent), str(location.resolve().parent)):
        if folder not in sys.path:  # configs import each other as `from configs import common`
            sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(location.stem, location)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, ((argument,) if colon and argument else ())


def _get_config(path: str) -> ml_collections.ConfigDict:
    """Runs `get_config` of a config file, "configs/x.py" or "configs/x.py:argument"."""
    module, argument = load_module(path)
    config = module.get_config(*argument)
    config.lock()
    return config


def _set_field(config: ml_collections.ConfigDict, field: str, value: typing.Any) -> None:
    """Sets a field by its dotted name; a ValueError if it is not there or of another type."""
    *parents, leaf = field.split(".")
    node = config
    for part in parents:
        _check_field(node, part, field)
        node = node[part]
    _check_field(node, leaf, field)
    try:
        node[leaf] = value
    except (TypeError, ValueError) as error:
        kind = node.get_type(leaf).__name__
        raise ValueError(f"config.{field} is of type {kind}, got {value!r}.") from error


def _check_field(node: ml_collections.ConfigDict, part: str, field: str) -> None:
    if not isinstance(node, ml_collections.ConfigDict) or part not in node:
        allowed = ", ".join(node) if isinstance(node, ml_collections.ConfigDict) else "none"
        raise ValueError(f"The config has no field {field!r}. Allowed there: {allowed}.")


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a locked copy with the model's fields filled in from its variant, and checks it.

    Raises:
      ValueError: a value that is not allowed; the message names the field and the choices.
    """
    config = config.copy_and_resolve_references()
    # A run of an earlier version lacks later fields: they are as the variant has them.
    given = config.model.to_dict().items()
    overrides = {name: value for name, value in given if name != "name" and value is not None}
    variant = get_variant(config.model.name, **overrides)
    for field in sorted(_LATER_FIELDS.keys() - flatten(config.to_dict()).keys()):
        *parents, leaf = field.split(".")
        node = config[parents[0]] if parents else config
        with node.unlocked():
            node[leaf] = _LATER_FIELDS[field]
    with config.model.unlocked():
        config.model.update(variant.fields())
    config.lock()
    _check(config)
    return config


def _check(config: ml_collections.ConfigDict) -> None:
    data, train = config.data, config.train
    make_crops(config)
    augmentation = make_augmentation(config)
    try:
        model_variant(config).grids(data.image_size)
    except ValueError as error:
        raise ValueError(f"data.{error}") from None
    if len(data.mean) != len(data.std):
        raise ValueError(f"data.mean {data.mean} and data.std {data.std} differ in length.")
    choices: dict[str, tuple[typing.Any, collections.abc.Collection[typing.Any]]] = {
        "data.channels": (data.channels, (0, 1, 3)),
        "data.on_corrupt": (data.on_corrupt, ON_CORRUPT),
        "train.dtype": (train.dtype, DTYPES),
    }
    for field, (value, allowed) in choices.items():
        if value not in allowed:
            listed = ", ".join(map(str, allowed))
            raise ValueError(f"Unknown {field} {value!r}. Allowed are {listed}.")
    positive = {
        "train.batch_size": train.batch_size,
        "train.accumulation_steps": train.accumulation_steps,
        "eval.batch_size": config.eval.batch_size,
        "eval.every_epochs": config.eval.every_epochs,
        "checkpoint.every_epochs": config.checkpoint.every_epochs,
        "checkpoint.keep": config.checkpoint.keep,
        "log.every_steps": config.log.every_steps,
        "data.prefetch": data.prefetch,
        "data.repeats": data.repeats,
        **{f"data.std[{i}]": value for i, value in enumerate(data.std)},
    }
    for field, value in positive.items():
        if value <= 0:
            raise ValueError(f"{field} must be greater than 0, got {value}.")
    not_negative = {
        "seed": config.seed,
        "data.num_threads": data.num_threads,
        "optimizer.reference_batch_size": config.optimizer.reference_batch_size,
        "optimizer.warmup_epochs": config.optimizer.warmup_epochs,
    }
    for field, value in not_negative.items():
        if not 0 <= value < 2**32:
            raise ValueError(f"{field} must be in [0, 2^32), got {value}.")
    if train.steps < 0 or (train.steps == 0 and train.epochs <= 0):
        raise ValueError("train.steps or train.epochs must be greater than 0.")
    for field in ("label_smoothing", "ema_decay"):
        if not 0.0 <= train[field] < 1.0:
            raise ValueError(f"train.{field} must be in [0, 1), got {train[field]}.")
    if not 0.0 < config.optimizer.layer_decay <= 1.0:
        raise ValueError(
            f"optimizer.layer_decay must be in (0, 1], got {config.optimizer.layer_decay}."
        )
    if train.batch_size % train.accumulation_steps:
        raise ValueError(
            f"train.accumulation_steps {train.accumulation_steps} does not divide "
            f"train.batch_size {train.batch_size}."
        )
    if augmentation.mixes and train.batch_size // train.accumulation_steps % 2:
        raise ValueError(
            "Mixup and cutmix pair the images, so train.batch_size / train.accumulation_steps "
            f"must be even, got {train.batch_size // train.accumulation_steps}. "
            "Or turn them off with augment.mix_prob=0."
        )


def make_crops(config: ml_collections.ConfigDict) -> Crops:
    """Returns the host's part of the augmentation. Raises a ValueError as `Crops` does."""
    return Crops(**{field.name: config.data[field.name] for field in dataclasses.fields(Crops)})


def make_augmentation(config: ml_collections.ConfigDict) -> Augmentation:
    """Returns the device's part of the augmentation. Raises a ValueError as it does."""
    return Augmentation(**config.augment.to_dict())


def make_model(config: ml_collections.ConfigDict, num_classes: int) -> Model:
    """Returns the model of a completed config."""
    dtype, remat = DTYPES[config.train.dtype], config.train.remat
    return build(model_variant(config), num_classes, dtype, remat)


def model_variant(config: ml_collections.ConfigDict) -> Variant:
    """Returns the architecture of a completed config."""
    fields = config.model.to_dict()
    return get_variant(fields.pop("name"), **fields)


def count_steps(config: ml_collections.ConfigDict, train_images: int) -> tuple[int, float]:
    """Returns the steps of a whole run, and those of an epoch, which is not rounded."""
    steps_per_epoch = train_images / config.train.batch_size
    return config.train.steps or round(config.train.epochs * steps_per_epoch), steps_per_epoch


def that_alter_numbers(
    fields: collections.abc.Mapping[str, typing.Any],
) -> dict[str, typing.Any]:
    """Returns those fields, {"train.epochs": 5.0}, whose change makes a run another one."""
    return {field: value for field, value in fields.items() if field not in _FREE_FIELDS}


def to_json(config: ml_collections.ConfigDict) -> str:
    """Returns the config as indented JSON, keys sorted."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def flatten(
    config: collections.abc.Mapping[str, typing.Any], prefix: str = ""
) -> dict[str, typing.Any]:
    """Maps {"a": {"b": 1}} to {"a.b": 1}; tuples become lists, as in JSON."""
    flat: dict[str, typing.Any] = {}
    for key, value in config.items():
        if isinstance(value, collections.abc.Mapping | ml_collections.ConfigDict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(
    saved: collections.abc.Mapping[str, typing.Any], config: ml_collections.ConfigDict
) -> list[str]:
    """Lists the fields in which two configs would give different runs, with both values.

    Args:
      saved: the config of a workdir, from its JSON.
      config: the completed config of this run.
    """
    old, new = {**_LATER_FIELDS, **flatten(saved)}, flatten(config.to_dict())
    if "model" in saved:
        fields = dict(saved["model"])
        variant = get_variant(fields.pop("name"), **fields)
        old |= flatten({"model": variant.fields()})  # those too that came later
    missing = "(not there)"
    return list_differences(
        that_alter_numbers(old), that_alter_numbers(new), missing, missing, repr
    )


def list_differences(
    there: collections.abc.Mapping[str, typing.Any],
    here: collections.abc.Mapping[str, typing.Any],
    not_there: str,
    not_here: str,
    show: collections.abc.Callable[[typing.Any], str] = str,
) -> list[str]:
    """Lists the names whose values differ, with both, in order: "seed: 0 there, 1 here".

    Args:
      there: of a folder on disk.
      here: of what is being started.
      not_there: shown for a value that `there` lacks.
      not_here: shown for a value that `here` lacks.
      show: makes a value readable.
    """
    absent = object()
    return [
        f"{name}: {show(there.get(name, not_there))} there, {show(here.get(name, not_here))} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name, absent) != here.get(name, absent)
    ]
