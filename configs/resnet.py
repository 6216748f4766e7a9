"""ResNet-50 on ImageNet-1K (arXiv 1512.03385) with the recipe of the other models.

The models are compared, not the recipes: this is neither the paper's recipe (SGD, 90 epochs) nor
one made for this network.

    python main.py --config=configs/resnet.py --workdir=/tmp/resnet
"""

import ml_collections

from configs import common

VARIANTS = {
    "50": "resnet_50",
}


def get_config(variant: str = "50") -> ml_collections.ConfigDict:
    return common.get_config(common.choose(VARIANTS, variant))
