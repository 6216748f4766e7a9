"""Table 6 of the paper: the expansion ratio r of the channel MLP.

python -m s2mlp_jax.sweep --config=configs/ablation_expansion.py:digits --workdir=... --seeds=3
"""

import typing

from configs import ablation
from configs.ablation import get_config as get_config

ROWS = {
    1: ablation.row("r=1", 86.1, 96.7, "29M", "5.7B"),
    2: ablation.row("r=2", 86.4, 96.9, "43M", "8.4B"),
    3: ablation.row("r=3", 87.0, 96.8, "57M", "11B"),
    4: ablation.wide_row("r=4"),
    5: ablation.row("r=5", 86.6, 96.8, "86M", "17B"),
}


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    ablation.check_scale(scale)
    return {f"r={ratio}": {"model.expansion": ratio} for ratio in ROWS}


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "Table 6: expansion ratio r",
        "baseline": "r=4",
        "rows": {f"r={ratio}": row for ratio, row in ROWS.items()},
    }
