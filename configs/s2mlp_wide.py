"""S²-MLP-wide on ImageNet-1K (arXiv 2106.07477, Table 2): 80.0 % top-1, 94.8 % top-5.

12 blocks of 768 channels, 72.2 M parameters, 14.0 G multiply-accumulates. The authors trained it
on four V100 GPUs for about four days.

    python main.py --config=configs/s2mlp_wide.py --workdir=/tmp/s2mlp_wide
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.get_config("s2mlp_wide")
