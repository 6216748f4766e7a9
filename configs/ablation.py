"""The three scales of the ablations, and the paper's figures as rows of a table.

In addition to `get_config`, the config of a sweep defines

    sweep(scale)  name of a setting -> the fields that it changes in the config;
    table(scale)  (optional) what the report shows next to it: title, baseline, the paper's rows.
"""

import typing

import ml_collections

from configs import common, s2mlp_cifar10, s2mlp_digits


class Base(typing.NamedTuple):
    """The base model of a scale: channels, patch and image in pixels."""

    dim: int
    patch_size: int
    image_size: int


# The paper uses the wide variant on ImageNet100. Where an ablation changes one of these values, the
# other scales change it by the same factor.
BASE = {
    "digits": Base(dim=64, patch_size=2, image_size=8),
    "cifar10": Base(dim=128, patch_size=4, image_size=32),
    "imagenet100": Base(dim=768, patch_size=16, image_size=224),
}

Row = dict[str, typing.Any]


def get_config(scale: str = "digits") -> ml_collections.ConfigDict:
    """Returns the recipe at a scale.

    digits: minutes on two cores. cifar10: hours on one accelerator. imagenet100: as in the paper
    (section 4.3, 100 classes of ImageNet; wide, 300 epochs).

    Raises:
      ValueError: the scale is unknown.
    """
    check_scale(scale)
    if scale == "digits":
        config = s2mlp_digits.get_config()
        config.eval.every_epochs = 5.0
    elif scale == "cifar10":
        config = s2mlp_cifar10.get_config()
        config.data.cache = True
        config.eval.every_epochs = 5.0
    else:
        config = common.get_config("s2mlp_wide")
        config.data.name = "imagenet100"
        config.eval.every_epochs = 10.0
    config.checkpoint.every_epochs = 5.0
    config.checkpoint.keep = 1
    config.log.tensorboard = False
    return config


def check_scale(scale: str) -> None:
    """Raises a ValueError that lists the allowed scales if the scale is unknown."""
    if scale not in BASE:
        raise ValueError(f"Unknown scale {scale!r} of an ablation. Allowed are {', '.join(BASE)}.")


def row(
    label: str, top1: float, top5: float, parameters: str = "", macs: str = "", note: str = ""
) -> Row:
    """Returns a row of the paper's Tables 4 to 9: percent, and sizes as printed."""
    return {
        "label": label,
        "top1": top1,
        "top5": top5,
        "parameters": parameters,
        "macs": macs,
        "note": note,
    }


def wide_row(label: str, note: str = "") -> Row:
    """Returns the row of the base model, which all tables share, with a label for one of them."""
    return row(label, 87.1, 97.1, "71M", "14B", note)
