"""Writes and reads the folder of an exported model, in the layout that model hubs expect.

model.safetensors    the weights, named by path: "params/head/bias"
config.json          the model, the dtype of its computation, and a record of its training
preprocessing.json   how an image is converted to the model's input
class_names.json     one name per output
README.md            the model card
"""

import dataclasses
import json
import pathlib
import typing

from s2mlp_jax.models import get_variant
from s2mlp_jax.options import DTYPES
from s2mlp_jax.saved.files import Folder, read_json
from s2mlp_jax.saved.preprocessing import Preprocessing, read_preprocessing
from s2mlp_jax.saved.untrusted import check_kind, check_model
from s2mlp_jax.saved.weights_file import Weights, read_variables, write_weights


class ModelFolder(typing.NamedTuple):
    """The content of the folder, except the model card.

    Attributes:
      class_names: one name per output of the head.
      dtype: dtype of the computation, a key of `options.DTYPES`.
      training: training record for the card, from `from_run`; {} if unknown.
    """

    weights: Weights
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    dtype: str
    training: dict[str, typing.Any]


def write_description(folder: pathlib.Path, content: ModelFolder, card: str) -> None:
    """Writes everything except the weights, which may be in another format.

    Raises:
      OSError: if the folder cannot be written to.
    """
    config = {
        "model": content.weights.describe(),
        "dtype": content.dtype,
        "training": content.training,
    }
    files = Folder(folder)
    _write_json(files.config_file, config)
    _write_json(files.preprocessing_file, dataclasses.asdict(content.preprocessing))
    _write_json(files.class_names_file, list(content.class_names))
    files.card_file.write_text(card, encoding="utf-8")


def write_model_folder(folder: pathlib.Path, content: ModelFolder, card: str) -> None:
    """Writes everything into an existing folder.

    Raises:
      ValueError: safetensors is not installed, or the weights read back differ.
      OSError: if the folder cannot be written to.
    """
    write_description(folder, content, card)
    write_weights(Folder(folder).weights_file, content.weights)


def read_description(
    folder: str | pathlib.Path,
) -> tuple[str, dict[str, typing.Any], Preprocessing]:
    """Returns the model's name, its fields, and the preprocessing, without the weights.

    Raises:
      ValueError: a file is missing or invalid; the message names the file.
    """
    files = Folder(pathlib.Path(folder))
    config, preprocessing = _read_config(files)
    return config["model"]["name"], config["model"]["fields"], preprocessing


def read_model_folder(folder: str | pathlib.Path) -> ModelFolder:
    """Reads what `write_model_folder` wrote; does not check that the weights fit the model.

    Raises:
      ValueError: a file is missing or invalid; the message names the file.
    """
    files = Folder(pathlib.Path(folder))
    config, preprocessing = _read_config(files)
    class_names = read_json(files.class_names_file)
    check_kind(class_names, [str], str(files.class_names_file))
    if len(class_names) != config["model"]["num_classes"]:
        raise ValueError(
            f"{files.class_names_file} has {len(class_names)} names, and the model "
            f"{config['model']['num_classes']} classes."
        )
    weights = Weights(read_variables(files.weights_file), **config["model"])
    return ModelFolder(
        weights, preprocessing, tuple(class_names), config["dtype"], config["training"]
    )


def _read_config(files: Folder) -> tuple[dict[str, typing.Any], Preprocessing]:
    """Returns the content of config.json, checked and with its dtype, and the preprocessing."""
    config, name = read_json(files.config_file), str(files.config_file)
    check_kind(config, {"model": dict, "training": dict, "dtype": str}, name, ("dtype",))
    check_model(config["model"], f"{name}: model")
    recipe = config["training"].get("recipe", {})
    check_kind(recipe, {"train.dtype": str}, f"{name}: training: recipe", ("train.dtype",))
    # Older exports do not have this field; they have the dtype in the recipe only.
    dtype = config["dtype"] = config.get("dtype") or recipe.get("train.dtype", "float32")
    if dtype not in DTYPES:
        raise ValueError(f"{name}: unknown dtype {dtype!r}. Allowed are {', '.join(DTYPES)}.")
    preprocessing = read_preprocessing(files.preprocessing_file)
    stored = config["model"]
    try:
        variant = get_variant(stored["name"], **stored["fields"])
        variant.check_other_size(stored["image_size"], preprocessing.image_size)
    except ValueError as error:
        raise ValueError(f"{files.preprocessing_file}: {error}") from error
    return config, preprocessing


def _write_json(path: pathlib.Path, content: typing.Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A class's folder may have a name that is not UTF-8: half a character, in JSON as \\udcff.
    path.write_bytes(text.encode("utf-8", "backslashreplace"))
