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

from s2mlp_jax.options import DTYPES
from s2mlp_jax.saved.arrays import unflatten
from s2mlp_jax.saved.files import Folder, read_json
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.weights_file import Weights, read_state_dict, write_weights


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
    files.card_file.write_text(card)


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
      ValueError: a file is missing or invalid; the message names the file or the folder.
    """
    files = Folder(pathlib.Path(folder))
    config, how = read_json(files.config_file), read_json(files.preprocessing_file)
    try:
        return config["model"]["name"], config["model"]["fields"], Preprocessing(**how)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not the folder of a model: {error}.") from error


def read_model_folder(folder: str | pathlib.Path) -> ModelFolder:
    """Reads what `write_model_folder` wrote; does not check that the weights fit the model.

    Raises:
      ValueError: a file is missing or invalid; the message names the file or the folder.
    """
    files = Folder(pathlib.Path(folder))
    variables = unflatten(read_state_dict(files.weights_file))
    config, class_names = read_json(files.config_file), read_json(files.class_names_file)
    try:
        weights = Weights(variables, **config["model"])
        preprocessing = Preprocessing(**read_json(files.preprocessing_file))
        training = config["training"]
        # Older exports do not have this field; they have the dtype in the recipe only.
        dtype = config.get("dtype") or training.get("recipe", {}).get("train.dtype", "float32")
        content = ModelFolder(weights, preprocessing, tuple(class_names), dtype, training)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not the folder of a model: {error}.") from error
    if len(class_names) != weights.num_classes:
        raise ValueError(
            f"{files.class_names_file} has {len(class_names)} names, and the model "
            f"{weights.num_classes} classes."
        )
    if dtype not in DTYPES:
        raise ValueError(
            f"{files.config_file}: unknown dtype {dtype!r}. Allowed are {', '.join(DTYPES)}."
        )
    return content


def _write_json(path: pathlib.Path, content: typing.Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
