"""Table 5 of the paper: the width, c channels.

python -m s2mlp_jax.sweep --config=configs/ablation_width.py:digits --workdir=... --seeds=3
"""

import typing

from configs import ablation
from configs.ablation import get_config as get_config

# At the smaller scales the widths are the same fractions of the base model's width.
ROWS = {
    192: ablation.row(
        "c=192",
        79.7,
        94.7,
        "4.3M",
        "0.9B",
        "Its parameters are 4,587,456, which is 4.59 x 10^6, or 4.375 in units of 2^20, cut.",
    ),
    384: ablation.row(
        "c=384",
        85.3,
        96.6,
        "17M",
        "3.5B",
        "Its parameters are 18,022,272, which is 18.0 x 10^6, or 17.2 in units of 2^20.",
    ),
    576: ablation.row(
        "c=576",
        85.7,
        96.7,
        "38M",
        "7.9B",
        "Its parameters are 40,304,448, which is 40.3 x 10^6, or 38.4 in units of 2^20.",
    ),
    768: ablation.wide_row("c=768"),
    960: ablation.row(
        "c=960",
        87.0,
        97.0,
        "106M",
        "20B",
        "Both in binary units: 111,410,880 parameters are 106.25 x 2^20, and 21,820,538,880 "
        "multiply-accumulates are 20.3 x 2^30.",
    ),
}


def _name(scale: str, width: int) -> str:
    return f"c={width * ablation.BASE[scale].dim // 768}"


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    ablation.check_scale(scale)
    dims = {_name(scale, width): width * ablation.BASE[scale].dim // 768 for width in ROWS}
    return {name: {"model.dim": dim} for name, dim in dims.items()}


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "Table 5: width c",
        "baseline": _name(scale, 768),
        "rows": {_name(scale, width): row for width, row in ROWS.items()},
        "note": "The paper's first version gave all sizes in units of 2^20 and 2^30; its second "
        "changed most of them to 10^6 and 10^9, and left those marked here.",
    }
