"""DeiT without distillation on ImageNet-1K (arXiv 2012.12877).

ti 72.2 %, s 79.8 %, b 81.8 %. The common recipe is DeiT's.

    python main.py --config=configs/deit.py:s --workdir=/tmp/deit
"""

import ml_collections

from configs import common

VARIANTS = {
    "ti": "deit_ti",
    "s": "deit_s",
    "b": "deit_b",
}


def get_config(variant: str = "s") -> ml_collections.ConfigDict:
    return common.get_config(common.choose(VARIANTS, variant))
