"""Weights files: our own, in safetensors with a model description; PyTorch's state dicts.

safetensors and torch are imported only when their files are read or written.
"""

import importlib
import json
import os
import pathlib
import types
import typing
from collections.abc import Mapping

import numpy as np

from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import get_variant
from s2mlp_jax.saved.arrays import flatten, unflatten
from s2mlp_jax.saved.checksums import check, checksums
from s2mlp_jax.saved.disk_faults import reading
from s2mlp_jax.saved.files import parse_json
from s2mlp_jax.saved.untrusted import check_kind, check_model, check_names, check_values

Path = str | pathlib.Path
Arrays = Mapping[str, np.ndarray]

PYTORCH_ENDINGS = (".pt", ".pth", ".bin")  # PyTorch's pickles
ENDINGS = (".safetensors", *PYTORCH_ENDINGS)
_SAFE_TORCH = (2, 6)  # its weights_only cannot be got round
_CHECKSUMS = "checksums"  # entry of the metadata, JSON: the checksum of each array
_NESTED = ("state_dict", "model")  # keys that may hold the weights of a checkpoint
# Types of safetensors that numpy reads: not those of 8 bits and fewer.
_KINDS = {"BF16", "F16", "F32", "F64", "C64", "BOOL"}
_KINDS |= {f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64)}
_INSTALL = {
    "safetensors": "pip install safetensors",
    "torch": "pip install torch",
}


class Weights(typing.NamedTuple):
    """A model's variables, and the values needed to build the model.

    Attributes:
      variables: nested float32 arrays for `model.apply`, at least `{"params": ...}`.
      name: name of the variant.
      num_classes: number of outputs of the head.
      image_size: side in pixels of the square images that the weights were made for.
      fields: all fields of the variant.
    """

    variables: dict[str, typing.Any]
    name: str
    num_classes: int
    image_size: int
    fields: dict[str, typing.Any]

    @property
    def variant(self) -> Variant:
        """The architecture."""
        return get_variant(self.name, **self.fields)

    def describe(self) -> dict[str, typing.Any]:
        """Returns everything except the variables, as stored in files."""
        return {name: value for name, value in self._asdict().items() if name != "variables"}


def load_variables(path: Path) -> dict[str, typing.Any]:
    """Reads the variables for `model.apply` from a file that `write_weights` wrote.

    Raises:
      ValueError: the file does not exist, or is not from `write_weights`.
    """
    return read_weights(path).variables


def write_weights(path: Path, weights: Weights) -> None:
    """Writes NAME.safetensors: arrays as "params/head/bias", the model as JSON metadata.

    Raises:
      ValueError: safetensors is not installed, or the weights read back differ.
    """
    told = {"model": json.dumps(weights.describe())}
    _write(pathlib.Path(path), flatten(weights.variables), told)


def read_weights(path: Path) -> Weights:
    """Reads a file that `write_weights` wrote.

    Raises:
      ValueError: the file does not exist, or is not from `write_weights`.
    """
    arrays, metadata = _read_safetensors(_existing(path))
    try:
        model = parse_json(metadata["model"])
    except (KeyError, ValueError) as error:  # missing entry, or another program's
        raise ValueError(
            f"{path} does not say which model it is of, so it was not written by "
            "`python -m s2mlp_jax.export --from-torch`."
        ) from error
    check_model(model, f"{path}: model")
    return Weights(_variables(arrays, path), **model)


def read_variables(path: Path) -> dict[str, typing.Any]:
    """Reads the variables for `model.apply` from the file of an exported folder.

    Raises:
      ValueError: the file cannot be read, or has other arrays than finite floating-point ones.
    """
    return _variables(_read_safetensors(_existing(path))[0], path)


def _variables(arrays: Arrays, path: Path) -> dict[str, typing.Any]:
    check_values(arrays, str(path))
    return unflatten(arrays)


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads the weights of a PyTorch model, by their PyTorch names.

    Args:
      path: file that ends in one of `ENDINGS`; a checkpoint may hold the weights under
        "state_dict" or "model".

    Raises:
      ValueError: the file does not exist, has another ending, is damaged or has no arrays, or a
        package is missing or too old.
    """
    path = _existing(path)
    if check_ending(path) == ".safetensors":
        return _read_safetensors(path)[0]
    torch = _import("torch", path)
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_TORCH:
        raise ValueError(
            f"{path} is not read with PyTorch {torch.__version__}: before "
            f"{'.'.join(map(str, _SAFE_TORCH))} such a file could run code (CVE-2025-32434). "
            "Update PyTorch, or take a .safetensors file."
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch have their own types
        raise ValueError(
            f"{path} is not a state dict of PyTorch, or it is damaged: a file that "
            "torch.save(model.state_dict(), FILE) wrote is expected, and not a pickled model, "
            "which could run code."
        ) from error
    for name in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds no state dict, but one {type(loaded).__name__}.")
    if others := [str(name) for name, x in loaded.items() if not isinstance(x, torch.Tensor)]:
        raise ValueError(
            f"{path} holds no state dict, and none as {' or '.join(_NESTED)}: "
            f"there are no arrays at {', '.join(others)}."
        )
    arrays = {}
    for name, x in loaded.items():
        try:  # numpy has no bfloat16
            arrays[str(name)] = (x.float() if x.is_floating_point() else x).detach().numpy()
        except Exception as error:  # a sparse or a quantized tensor, each has its own
            raise ValueError(f"{path}: {name} is a tensor that numpy cannot hold.") from error
    return arrays


def write_state_dict(path: Path, state_dict: Arrays) -> None:
    """Writes a state dict in the format of the path's ending, one of `ENDINGS`.

    Raises:
      ValueError: the ending is another, a package is missing, or the arrays read back differ.
    """
    check_ending(path)
    _write(pathlib.Path(path), state_dict, {"format": "pt"})


def check_ending(path: Path, allowed: tuple[str, ...] = ENDINGS) -> str:
    """Returns the ending of a file's name; raises a ValueError if it is not allowed."""
    ending = pathlib.Path(path).suffix
    if ending not in allowed:
        raise ValueError(f"{path} must end in {', '.join(allowed)}.")
    return ending


def _write(path: pathlib.Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Writes a temporary file, checks that it reads back the same, and moves it to `path`."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {path.absolute().parent} to write {path.name} into.")
    incomplete = path.with_name(f"incomplete.{path.name}")
    try:
        if path.suffix == ".safetensors":
            metadata = {**metadata, _CHECKSUMS: json.dumps(checksums(dict(arrays)))}
            _import("safetensors.numpy", path).save_file(dict(arrays), incomplete, metadata)
            incomplete.chmod(0o644)  # safetensors lets only the owner read it
        else:
            torch = _import("torch", path)
            torch.save({name: torch.from_numpy(x) for name, x in arrays.items()}, incomplete)
        _compare(path, arrays, read_state_dict(incomplete))
        os.replace(incomplete, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}.") from error
    finally:
        incomplete.unlink(missing_ok=True)


def _compare(path: pathlib.Path, written: Arrays, read: Arrays) -> None:
    """Raises a ValueError if names, shapes or values of two sets of arrays differ."""
    wrong = sorted(written.keys() ^ read.keys())
    wrong += [
        name
        for name in sorted(written.keys() & read.keys())
        if written[name].shape != read[name].shape
        or not np.array_equal(written[name], read[name], equal_nan=True)
    ]
    if wrong:
        raise ValueError(f"{path} was not written as it should be: {', '.join(wrong)} differ.")


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays of a file and its metadata."""
    safetensors = _import("safetensors", path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = set(file.keys())
            check_names(names, str(path))
            kinds = {name: file.get_slice(name).get_dtype() for name in sorted(names)}
            if strange := [f"{name} ({x})" for name, x in kinds.items() if x not in _KINDS]:
                raise ValueError(
                    f"{path} has arrays of a type that is not read here, such as {strange[0]}."
                )
            arrays = {name: file.get_tensor(name) for name in kinds}
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error
    if _CHECKSUMS in metadata:  # not in files of other programs and of earlier versions
        recorded = parse_json(metadata[_CHECKSUMS])
        check_kind(recorded, dict, f"{path}: {_CHECKSUMS}")
        with reading(str(path)):
            check(arrays, recorded)
    return arrays, metadata


def _existing(path: Path) -> pathlib.Path:
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    return pathlib.Path(path)


def _unreadable(path: pathlib.Path, error: Exception) -> ValueError:
    lines = str(error).splitlines() or [type(error).__name__]
    return ValueError(f"{path} cannot be read: {lines[0]}")


def _import(module: str, path: pathlib.Path) -> types.ModuleType:
    """Imports the package for a file; if missing, a ValueError tells how to install it."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (package, module):
            raise
        raise ValueError(f"{path.name} needs {package}: {_INSTALL[package]}") from None
