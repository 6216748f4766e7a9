"""One folder is a model: its files, written and read. The layout is the one that hubs expect.

model.safetensors    the weights, by path: "params/head/bias"
config.json          which model it is, and how it was trained
preprocessing.json   what an image goes through before
class_names.json     one name an output
README.md            the model card
"""

import dataclasses
import json
import pathlib
import typing

from s2mlp_jax.saved.arrays import unflatten
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.weights_file import Weights, read_state_dict, write_weights

WEIGHTS, CONFIG = "model.safetensors", "config.json"
PREPROCESSING, CLASS_NAMES, CARD = "preprocessing.json", "class_names.json", "README.md"


class ModelFolder(typing.NamedTuple):
    """What a folder holds, but for the card.

    Attributes:
      class_names: as many as the head has outputs.
      training: how it was trained, for the card, from `run_to_folder`; {} if not known.
    """

    weights: Weights
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    training: dict[str, typing.Any]


def write_description(folder: pathlib.Path, content: ModelFolder, card: str) -> None:
    """Writes all but the weights, which may be there in another format.

    Raises:
      OSError: if the folder cannot be written to.
    """
    config = {"model": content.weights.describe(), "training": content.training}
    _write_json(folder / CONFIG, config)
    _write_json(folder / PREPROCESSING, dataclasses.asdict(content.preprocessing))
    _write_json(folder / CLASS_NAMES, list(content.class_names))
    (folder / CARD).write_text(card)


def write_model_folder(folder: pathlib.Path, content: ModelFolder, card: str) -> None:
    """Writes all of it into a folder that is there.

    Raises:
      ValueError: safetensors is not installed, or what is read back is not what was written.
      OSError: if the folder cannot be written to.
    """
    write_description(folder, content, card)
    write_weights(folder / WEIGHTS, content.weights)


def read_description(
    folder: str | pathlib.Path,
) -> tuple[str, dict[str, typing.Any], Preprocessing]:
    """Returns the model's name, its fields, and the preprocessing, without the weights.

    Raises:
      ValueError: a file that is missing or no such file; the message names it.
    """
    folder = pathlib.Path(folder)
    config, how = _read_json(folder / CONFIG), _read_json(folder / PREPROCESSING)
    try:
        return config["model"]["name"], config["model"]["fields"], Preprocessing(**how)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is no folder of a model: {error}.") from error


def read_model_folder(folder: str | pathlib.Path) -> ModelFolder:
    """Reads what `write_model_folder` wrote; that the weights fit the model is not checked.

    Raises:
      ValueError: a file that is missing or no such file; the message names it.
    """
    folder = pathlib.Path(folder)
    variables = unflatten(read_state_dict(folder / WEIGHTS))
    config, class_names = _read_json(folder / CONFIG), _read_json(folder / CLASS_NAMES)
    try:
        weights = Weights(variables, **config["model"])
        preprocessing = Preprocessing(**_read_json(folder / PREPROCESSING))
        content = ModelFolder(weights, preprocessing, tuple(class_names), config["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is no folder of a model: {error}.") from error
    if len(class_names) != weights.num_classes:
        raise ValueError(
            f"{folder / CLASS_NAMES} has {len(class_names)} names, and the model "
            f"{weights.num_classes} classes."
        )
    return content


def _write_json(path: pathlib.Path, content: typing.Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _read_json(path: pathlib.Path) -> typing.Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
