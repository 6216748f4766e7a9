"""Vertical or horizontal: five shift patterns on upright images, and on the same images rotated.

If the order of the patterns reverses with the rotation, it is a property of the images; if it does
not change, of the code. Each pattern is trained with and without horizontal flips; in a rotated
image they are vertical flips of the original.

python -m s2mlp_jax.sweep --config=configs/ablation_rotation.py:digits --workdir=... --seeds=5
"""

import typing

import ml_collections

from configs import compare

PATTERNS = ("a", "e", "f", "g", "i")


def get_config(scale: str = "digits") -> ml_collections.ConfigDict:
    """Returns the recipe at a scale of `configs/compare.py`; the digits' for half as long.

    Raises:
      ValueError: for another scale.
    """
    config = compare.get_config(scale)
    if scale == "digits":
        config.train.epochs = 15.0
    return config


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    compare.check_scale(scale)
    return {
        f"{pattern}-{name}{'-flip' if flip else ''}": {
            "model.shift": pattern,
            "data.rotate": degrees,
            "data.flip": flip,
        }
        for flip in (0.0, 0.5)
        for name, degrees in (("upright", 0), ("turned", 90))
        for pattern in PATTERNS
    }


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "Shift patterns on upright and turned images",
        "baseline": "a-upright",
        "rows": {},
        "note": "(a) moves in all four directions, (e) down and up, (f) right and left, (g) up, "
        "(i) left. turned: all images, for training and evaluation, by 90 degrees "
        "counter-clockwise. flip: half of the training images are mirrored, left to right.",
    }
