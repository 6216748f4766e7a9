"""Checks of a model's files before anything is built: they may come from strangers.

The limits lie far above every published model. Without them, a few bytes of JSON could ask for a
model that takes minutes or all memory to build.
"""

import math
import typing
from collections.abc import Collection, Mapping

import numpy as np

from s2mlp_jax.data.views import MAX_IMAGE_SIZE
from s2mlp_jax.models.mixers import find_mixer
from s2mlp_jax.models.variant import field_types
from s2mlp_jax.models.variants import get_variant

MAX_BLOCKS = 1_000  # of all stages together; the fields have limits of their own
MAX_CLASSES = 1_000_000
MAX_ARRAYS = 20_000
MAX_NAME = 1_000  # characters, of an array, a class or another text
MAX_PARTS = 16  # of an array's name, "params/block_00/mlp/fc_in/kernel"
_MAX_NUMBER = 10**15  # of any other field
_MAX_SHOWN = 60  # characters of a wrong value in a message

# A type, [kind] for a list of that kind, or {key: kind} for an object with these keys.
Kind = type | list[typing.Any] | dict[str, typing.Any]

MODEL: dict[str, typing.Any] = {
    "name": str,
    "num_classes": int,
    "image_size": int,
    "fields": dict,
}


def check_kind(value: typing.Any, kind: Kind, name: str, optional: Collection[str] = ()) -> None:
    """Checks the type of a value from JSON, and of everything in it.

    Args:
      name: name of the value in messages: the file, and the fields that lead to it.
      optional: keys of an object that may be missing.

    Raises:
      ValueError: the message names the value.
    """
    if isinstance(kind, dict):
        check_kind(value, dict, name)
        if missing := [key for key in kind if key not in value and key not in optional]:
            raise ValueError(f"{name} has no field {', '.join(missing)}.")
        for key in kind.keys() & value.keys():
            check_kind(value[key], kind[key], f"{name}: {key}")
    elif isinstance(kind, list):
        check_kind(value, list, name)
        for i, item in enumerate(value):
            check_kind(item, kind[0], f"{name}[{i}]")
    else:
        # bool is a subclass of int. JSON has one kind of number, and Python's reader NaN too.
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is float and not abs(value) < math.inf):
            raise ValueError(f"{name} must be {_KINDS[kind]}, got {_shown(value)}.")
        if kind in (int, float):
            check_between(value, -_MAX_NUMBER, _MAX_NUMBER, name)
        elif kind is str and len(value) > MAX_NAME:
            raise ValueError(f"{name} has {len(value):,} characters, and may have {MAX_NAME:,}.")


_KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    list: "a list",
    dict: "an object with fields",
}


def check_between(value: float, low: float, high: float, name: str) -> None:
    """Checks a number, or raises a ValueError that names it."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:,} to {high:,}, got {_shown(value)}.")


def check_known(value: Mapping[str, typing.Any], known: Collection[str], name: str) -> None:
    """Checks that an object has no other keys, or raises a ValueError that names them."""
    if unknown := [key for key in value if key not in known]:
        listed = ", ".join(map(_shown, unknown[:5]))
        raise ValueError(f"{name} has unknown fields: {listed}. Known are {', '.join(known)}.")


def check_model(described: typing.Any, where: str) -> dict[str, typing.Any]:
    """Checks the description of a model, as `Weights.describe` returns it; returns it.

    Args:
      where: name of the description in messages.

    Raises:
      ValueError: a missing field, a wrong type, a value that is not allowed or above a limit.
    """
    check_kind(described, MODEL, where)
    check_known(described, MODEL, where)
    check_between(described["num_classes"], 1, MAX_CLASSES, f"{where}: num_classes")
    check_between(described["image_size"], 1, MAX_IMAGE_SIZE, f"{where}: image_size")
    fields, types = described["fields"], field_types()
    if isinstance(mixer := fields.get("mixer"), str):
        try:
            find_mixer(mixer)  # first, as an unknown one has unknown fields
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    check_known(fields, types, f"{where}: fields")
    for name, value in fields.items():
        kind = [int] if types[name] is tuple else types[name]
        check_kind(value, kind, f"{where}: fields: {name}")
    try:
        variant = get_variant(described["name"], **fields)
        check_between(sum(variant.depths), 1, MAX_BLOCKS, "depth and later_depths")
        variant.grids(described["image_size"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return described


def check_names(names: Collection[str], where: str) -> None:
    """Checks the names of a file's arrays, before the arrays are read.

    Raises:
      ValueError: there are too many, one is too long or has too many parts, or one is the
        beginning of another.
    """
    check_between(len(names), 0, MAX_ARRAYS, f"{where}: the number of arrays")
    for name in names:
        if len(name) > MAX_NAME or name.count("/") >= MAX_PARTS:
            raise ValueError(
                f"{where} has an array with a name of {len(name):,} characters and "
                f"{name.count('/') + 1:,} parts, {_shown(name)}; at most {MAX_NAME:,} and "
                f"{MAX_PARTS} are allowed."
            )
        parts = name.split("/")
        for end in range(1, len(parts)):
            if (start := "/".join(parts[:end])) in names:
                raise ValueError(f"{where} has arrays {_shown(start)} and {_shown(name)}.")


def check_values(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Checks that arrays can be weights: finite floating-point numbers.

    Raises:
      ValueError: the message names the arrays.
    """
    problems = {
        # Also bfloat16 and the like, which numpy itself does not know.
        "are not floating-point numbers": [
            f"{name} ({x.dtype})" for name, x in arrays.items() if not _is_float(x.dtype)
        ],
        "have NaN or infinite numbers": [
            name for name, x in arrays.items() if _is_float(x.dtype) and not np.isfinite(x).all()
        ],
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
            listed = ", ".join(name[:MAX_NAME] for name in names[:5])
            raise ValueError(f"{where}: these weights {problem}: {listed}{more}.")


def _is_float(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def _shown(value: typing.Any) -> str:
    # An integer of more than 4,300 digits has no text in Python.
    if isinstance(value, int) and abs(value) >= 10**_MAX_SHOWN:
        return f"an integer of {value.bit_length():,} bits"
    text = repr(value[:_MAX_SHOWN] if isinstance(value, str | list) else value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
