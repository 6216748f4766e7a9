"""Options that the paper leaves open: the border of the shift, and a group that stays in place.

python -m s2mlp_jax.sweep --config=configs/ablation_border.py:digits --workdir=... --seeds=3
"""

import typing

from configs import ablation
from configs.ablation import get_config as get_config

# Algorithm 1 keeps the border tokens; section 3.3 calls the shift a depthwise convolution, whose
# usual padding is zero; a roll is circular. A reader proposed that some channels should stay in
# place: here a fifth and half of them.
SETTINGS: dict[str, dict[str, typing.Any]] = {
    "keep": {"model.border": "keep"},
    "zero": {"model.border": "zero"},
    "circular": {"model.border": "circular"},
    "fifth-stays": {"model.shift": "right+left+down+up+stay"},
    "half-stays": {"model.shift": "right+left+down+up+stay+stay+stay+stay"},
}


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    ablation.check_scale(scale)
    return SETTINGS


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {"title": "Border of the shift, and channels that stay", "baseline": "keep", "rows": {}}
