"""Table 7 of the paper: the patterns of the spatial shift, (a) to (j) of Figure 2, and none.

python -m s2mlp_jax.sweep --config=configs/ablation_shift.py:digits --workdir=... --seeds=3
"""

import typing

from configs import ablation
from configs.ablation import get_config as get_config

# Top-1 and top-5. Sizes are those of the base model: a shift has no parameters and no products.
ROWS = {
    "a": ablation.row("a", 87.1, 97.1),
    "b": ablation.row("b", 87.0, 97.1),
    "c": ablation.row("c", 85.0, 96.1),
    "d": ablation.row("d", 85.1, 96.2),
    "e": ablation.row("e", 79.5, 93.1),
    "f": ablation.row("f", 80.5, 93.7),
    "g": ablation.row("g", 77.7, 92.7),
    "h": ablation.row("h", 77.5, 92.5),
    "i": ablation.row("i", 78.3, 93.4),
    "j": ablation.row("j", 78.4, 93.4),
    "none": ablation.row(
        "w/o",
        56.7,
        81.0,
        note="Table 4 has the same 56.7 for N=1, with another top-5 (82.0); one of the two may "
        "be a slip.",
    ),
}


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    ablation.check_scale(scale)
    return {pattern: {"model.shift": pattern} for pattern in ROWS}


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "Table 7: shift pattern",
        "baseline": "a",
        "rows": ROWS,
        "note": "Whether a vertical pattern (e, g, h) is better than a horizontal one (f, i, j) is "
        "a property of the images: with the images turned, the order turns "
        "(results/rotation.md).",
    }
