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

import ml_collections
from flax import traverse_util

from s2mlp_jax.checks import FieldError, rules, shown
from s2mlp_jax.cli import parse_overrides
from s2mlp_jax.data.decoding import MAX_PIXELS
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import get_variant
from s2mlp_jax.options import ModelOptions, Options

_EARLIER = (
    "it is of an earlier version of this code, and a run goes on with the version it began with "
    "(environment.json has its commit)."
)

# Fields that may change when a run is continued; configs/common.py marks them with [free]. They do
# not change the training's numbers, or only the order of its sums, as another number of devices
# does; on_corrupt does only where the run could not go on. place is for new runs: others keep the
# one in their checkpoint.
FREE_FIELDS = {
    "data.data_dir",
    "data.download",
    "data.cache",
    "data.on_corrupt",
    "data.max_pixels",
    "data.place",
    "data.num_threads",
    "data.prefetch",
    "train.remat",
    "train.shard_state",
    "eval.every_epochs",
    "eval.batch_size",
    "checkpoint.every_epochs",
    "checkpoint.keep",
    "log.every_steps",
    "log.tensorboard",
}


# Fields that version 0.1.0 did not have, with values that give the behaviour of its runs.
_LATER_FIELDS: dict[str, typing.Any] = {
    "data.rotate": 0,
    "data.place": "host",
    "data.max_pixels": MAX_PIXELS,
}


def load_config(
    path: str, overrides: collections.abc.Mapping[str, typing.Any] | None = None
) -> ml_collections.ConfigDict:
    """Loads a config file without flags, for notebooks and tests.

    Args:
      path: "configs/s2mlp_digits.py", or "configs/x.py:argument" for a config with an argument.
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
    """Returns a text on which `--config.field=value` is wrong, and what is allowed there.

    Args:
      argv: the command line.
      error: exception raised while parsing it; its text is returned if no field is wrong.
    """
    path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), "")
    if path:
        try:
            config = _get_config(path)  # the config's own argument may be wrong
            changes = [argument for argument in argv if argument.startswith("--config.")]
            for field, value in parse_overrides(changes, "--config.").items():
                _set_field(config, field, value)
        except ValueError as reason:
            return str(reason)
    return str(error.args[0]) if error.args else str(error)


def load_module(path: str) -> tuple[types.ModuleType, tuple[str, ...]]:
    """Runs a Python file, such as a config.

    Args:
      path: "configs/x.py", or "configs/x.py:argument".

    Returns:
      The module, and the arguments (one or none) for its functions.

    Raises:
      ValueError: no such file.
    """
    file, colon, argument = path.partition(":")
    location = pathlib.Path(file)
    if not location.is_file():
        raise ValueError(f"There is no file {file}.")
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
    """Sets a field by its dotted name; raises ValueError if it is missing or of another type."""
    *parents, leaf = field.split(".")
    node = config
    for part in parents:
        _check_field(node, part, field)
        node = node[part]
    _check_field(node, leaf, field)
    try:
        if type(value) is bool and node.get_type(leaf) is float:
            raise TypeError  # ml_collections would make 1.0 of True
        node[leaf] = value
    except (TypeError, ValueError, OverflowError) as error:
        kind = node.get_type(leaf).__name__
        raise ValueError(f"config.{field} is of type {kind}, got {shown(value)}.") from error


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
    for group in ("model", "data"):
        if not isinstance(config.get(group), ml_collections.ConfigDict):
            raise ValueError(f"config.{group} is not a group of fields: {config.get(group)!r}.")
    # Runs of earlier versions lack later fields: they get the variant's values.
    given = config.model.to_dict()
    variant = _variant({name: value for name, value in given.items() if value is not None})
    for field in sorted(_LATER_FIELDS.keys() - flatten(config.to_dict()).keys()):
        *parents, leaf = field.split(".")
        node = config[parents[0]] if parents else config
        with node.unlocked():
            node[leaf] = _LATER_FIELDS[field]
    with config.model.unlocked():
        config.model.update(variant.fields())
    config.lock()
    to_options(config)  # checks it
    return config


def _variant(model: collections.abc.Mapping[str, typing.Any]) -> Variant:
    """Returns the architecture of a config's group `model`, the name and the fields."""
    fields = dict(model)
    name = fields.pop("name", None)
    if wrong := rules(ModelOptions)["name"].wrong(name):
        raise ValueError(f"model.name {wrong}")
    try:
        return get_variant(name, **fields)
    except FieldError as error:
        raise ValueError(f"model.{error}") from None


def to_options(config: ml_collections.ConfigDict) -> Options:
    """Turns a completed config into typed options, which check themselves.

    Raises:
      ValueError: a missing field, a wrong type, or a value that is not allowed.
    """
    names = [field.name for field in dataclasses.fields(Options) if field.name != "model"]
    kinds = typing.get_type_hints(Options)
    model = ModelOptions(config.model.name, _variant(config.model.to_dict()))
    groups = {name: _typed(config, name, kinds[name], name) for name in names}
    return Options(model=model, **groups)


def _typed(node: ml_collections.ConfigDict, name: str, kind: typing.Any, field: str) -> typing.Any:
    """Returns the field `name` of a part of a config, as `kind`; `field` is its dotted name."""
    if name not in node:
        raise ValueError(f"The config has no {field}: {_EARLIER}")
    value = node[name]
    if isinstance(value, ml_collections.ConfigDict) and dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        parts = {part: _typed(value, part, kinds[part], f"{field}.{part}") for part in kinds}
        return typing.cast(type, kind)(**parts)
    try:
        if kind is float and type(value) is int:
            return float(value)
        if kind == tuple[float, ...] and isinstance(value, tuple | list):
            if all(type(x) in (int, float) for x in value):
                return tuple(map(float, value))
        elif type(value) is kind:  # not isinstance: True is not an int here
            return value
    except OverflowError:  # an integer of over 308 digits
        pass
    wanted = "tuple of numbers" if kind == tuple[float, ...] else kind.__name__
    raise ValueError(f"config.{field} is of type {wanted}, got {shown(value)}.")


def that_alter_numbers(
    fields: collections.abc.Mapping[str, typing.Any],
) -> dict[str, typing.Any]:
    """Returns those of the fields, {"train.epochs": 5.0}, that affect a run's numbers."""
    return {field: value for field, value in fields.items() if field not in FREE_FIELDS}


def to_json(config: ml_collections.ConfigDict) -> str:
    """Returns the config as indented JSON, keys sorted."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def flatten(config: collections.abc.Mapping[str, typing.Any]) -> dict[str, typing.Any]:
    """Maps {"a": {"b": 1}} to {"a.b": 1}; tuples become lists, as in JSON."""
    flat = traverse_util.flatten_dict(dict(config), sep=".")
    return {field: list(x) if isinstance(x, tuple) else x for field, x in flat.items()}


def differences(
    saved: collections.abc.Mapping[str, typing.Any],
    config: ml_collections.ConfigDict,
    free: bool = False,
) -> list[str]:
    """Lists the fields that make the runs of two configs differ, with both values.

    Args:
      saved: the config of a workdir, from its JSON.
      config: the completed config of this run.
      free: list also the fields that may change when a run is continued.
    """
    old, new = {**_LATER_FIELDS, **flatten(saved)}, flatten(config.to_dict())
    if "model" in saved:
        # Also fields that came later.
        old |= flatten({"model": _variant(saved["model"]).fields()})
    missing = "(not there)"
    if not free:
        old, new = that_alter_numbers(old), that_alter_numbers(new)
    return list_differences(old, new, missing, missing, repr)


def list_differences(
    there: collections.abc.Mapping[str, typing.Any],
    here: collections.abc.Mapping[str, typing.Any],
    not_there: str,
    not_here: str,
    show: collections.abc.Callable[[typing.Any], str] = str,
) -> list[str]:
    """Lists the names whose values differ, in order, with both: "seed: 0 there, 1 here".

    Args:
      there: values of a folder on disk.
      here: values of the run being started.
      not_there: text shown for a value that is missing in `there`.
      not_here: text shown for a value that is missing in `here`.
      show: formats a value.
    """
    absent = object()
    return [
        f"{name}: {show(there.get(name, not_there))} there, {show(here.get(name, not_here))} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name, absent) != here.get(name, absent)
    ]
