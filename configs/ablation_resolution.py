"""Table 8 of the paper: the image size, at the same patch size.

python -m s2mlp_jax.sweep --config=configs/ablation_resolution.py:digits --workdir=... --seeds=3
"""

import typing

from configs import ablation
from configs.ablation import get_config as get_config

# Image size in the paper -> factor on the image size of the base model.
FACTORS = {112: 0.5, 224: 1.0, 336: 1.5}
ROWS = {
    112: ablation.row("112", 80.6, 94.2, "71M", "3.5B"),
    224: ablation.wide_row("224"),
    336: ablation.row(
        "384",
        88.2,
        97.6,
        "71M",
        "31B",
        "The row is of 336 pixels: the text above the table says so, and only that gives 31B "
        "(31,473,598,464 multiply-accumulates; 384 pixels would take 41,108,373,504).",
    ),
}


def _size(scale: str, pixels: int) -> int:
    return round(FACTORS[pixels] * ablation.BASE[scale].image_size)


def sweep(scale: str = "digits") -> dict[str, dict[str, typing.Any]]:
    ablation.check_scale(scale)
    sizes = [_size(scale, pixels) for pixels in ROWS]
    settings: dict[str, dict[str, typing.Any]] = {
        f"{size}px": {"data.image_size": size} for size in sizes
    }
    if scale == "cifar10":  # the padding of the crop is in pixels; keep its fraction of the image
        for size in sizes:
            settings[f"{size}px"]["data.crop_padding"] = size // 8
    return settings


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "Table 8: image size",
        "baseline": f"{_size(scale, 224)}px",
        "rows": {f"{_size(scale, pixels)}px": row for pixels, row in ROWS.items()},
        "note": "The random crop is out of an image padded by one pixel at every size."
        if scale == "digits"
        else "",
    }
