"""S²-MLP-deep on ImageNet-1K (arXiv 2106.07477, Table 2): 80.7 % top-1, 95.4 % top-5.

36 blocks of 384 channels with ResMLP's affine as the norm, 53.9 M parameters, 10.5 G
multiply-accumulates.

    python main.py --config=configs/s2mlp_deep.py --workdir=/tmp/s2mlp_deep
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.get_config("s2mlp_deep")
