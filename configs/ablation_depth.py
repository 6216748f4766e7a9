"""Table 4 of the paper: the depth, N blocks.

python -m s2mlp_jax.sweep --config=configs/ablation_depth.py:digits --workdir=... --seeds=3
"""

import typing

from configs import ablation
from configs.ablation import get_config as get_config

ROWS = {
    1: ablation.row("N=1", 56.7, 82.0, "6.5M", "1.3B"),
    3: ablation.row("N=3", 79.6, 94.1, "18M", "3.6B"),
    6: ablation.row("N=6", 84.6, 96.0, "36M", "7.1B"),
    12: ablation.wide_row("N=12", "The text says 92.1 for its top-5, the table 97.1."),
    16: ablation.row("N=16", 86.3, 96.9, "95M", "19B"),
}


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    ablation.check_scale(scale)
    return {f"N={depth}": {"model.depth": depth} for depth in ROWS}


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "Table 4: depth N",
        "baseline": "N=12",
        "rows": {f"N={depth}": row for depth, row in ROWS.items()},
    }
