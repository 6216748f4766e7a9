"""Names of data sets: which are known, and which command prepares them."""

import os

import tensorflow_datasets as tfds
from etils import epath

from s2mlp_jax.checks import did_you_mean

DIGITS = "digits"  # comes with scikit-learn: nothing is to be prepared

# Data sets of some classes of another: name -> source. prepare/<name>.txt lists the classes.
SUBSETS = {"imagenet100": "imagenet2012"}

_FOLDER = "folder:"  # prefix of a path: images in folders, read as they are


def folder_of(name: str) -> str:
    """Returns the path "/my/images" for the name "folder:/my/images"; "" for other names.

    Raises:
      ValueError: the name is a path without the prefix, or the prefix without a path.
    """
    if name.startswith(("/", "~", ".")):
        raise ValueError(f"Data set {name!r} is a path. A folder of images is {_FOLDER}{name}.")
    if not name.startswith(_FOLDER):
        return ""
    path = name.removeprefix(_FOLDER)
    if not path:
        raise ValueError(f"Data set {name!r} needs a path, as in {_FOLDER}/my/images.")
    return os.path.expanduser(path)


def base_name(name: str) -> str:
    """Returns the name without config and version: "cifar10" for "cifar10:3.0.2"."""
    return name.split("/")[0].split(":")[0]


def check_known(name: str) -> None:
    """Raises a ValueError if neither this package nor TFDS knows a data set of that name."""
    known = _known()
    base = origin(name)[0]
    if base not in known:
        hint = did_you_mean(base, known, most=3)
        raise ValueError(
            f"Unknown data set {name!r}: neither digits, imagenet100, synthetic, nor a name of "
            "TensorFlow Datasets (https://www.tensorflow.org/datasets/catalog), nor a subset of "
            f"your own that is prepared there, nor a folder of images, {_FOLDER}PATH.{hint}"
        )


def may_download(name: str) -> bool:
    """Returns whether preparing the data set from scratch may use the network."""
    return base_name(name) not in (DIGITS, "imagenet2012")


def manual_instructions(name: str) -> str:
    """Returns TFDS's instructions for files to be fetched by hand; "" if there are none."""
    if base_name(name) == DIGITS:
        return ""
    return tfds.builder_cls(base_name(name)).MANUAL_DOWNLOAD_INSTRUCTIONS or ""


def not_prepared(name: str, directory: epath.Path) -> str:
    """Returns the message for a known data set that is not prepared: the command to run."""
    start = f"Data set {name!r} is not prepared in {directory} (data.data_dir). "
    base, side = origin(name)
    command = f"python -m s2mlp_jax.data.prepare {base if side else name} --data_dir={directory}"
    if side:
        return f"{start}It is made of {SUBSETS.get(base, base)}. Run: {command} --short_side={side}"
    if base in SUBSETS:
        return f"{start}It is made of {SUBSETS[base]}. Run: {command}"
    if base == DIGITS:
        return f"{start}Take data.name={DIGITS}, which needs no preparation."
    if manual_instructions(name):
        download = " --download" if may_download(name) else ""
        return (
            f"{start}Its files must be fetched by hand. Then run: {command} "
            f"--manual_dir=FOLDER_OF_THE_FILES{download}"
        )
    return (
        f"{start}To download and prepare it, add --config.data.download=True, or run: "
        f"{command} --download"
    )


def _known() -> set[str]:
    return {DIGITS, *SUBSETS, *tfds.list_builders(with_community_datasets=False)}


def origin(name: str) -> tuple[str, str]:
    """Splits a smaller copy's name, "imagenet2012_256", into "imagenet2012" and "256".

    For other names, returns the base name and "".
    """
    base, known = base_name(name), _known()
    stem, _, side = base.rpartition("_")
    if base not in known and stem in known and side.isdigit():
        return stem, side
    return base, ""
