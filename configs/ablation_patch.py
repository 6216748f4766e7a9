"""Table 9 of the paper: the patch size, at the same image size.

python -m s2mlp_jax.sweep --config=configs/ablation_patch.py:digits --workdir=... --seeds=3
"""

import typing

from configs import ablation
from configs.ablation import get_config as get_config

# Patch size in the paper -> factor on the patch size of the base model.
ROWS = {
    32: ablation.row(
        "32",
        81.0,
        94.6,
        "73M",
        "3.5B",
        "They are 3,583,770,624, which is 3.6B; 3.5B is the figure of Table 8's "
        "row of 112 pixels, which has as many tokens, or leaves the patch embedding out.",
    ),
    16: ablation.wide_row("16"),
}


def _size(scale: str, pixels: int) -> int:
    return pixels * ablation.BASE[scale].patch_size // 16


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    ablation.check_scale(scale)
    sizes = [_size(scale, pixels) for pixels in ROWS]
    return {f"p={size}": {"model.patch_size": size} for size in sizes}


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "Table 9: patch size p",
        "baseline": f"p={_size(scale, 16)}",
        "rows": {f"p={_size(scale, pixels)}": row for pixels, row in ROWS.items()},
    }
