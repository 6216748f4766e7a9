"""ResMLP on ImageNet-1K (arXiv 2105.03404): 76.6, 79.4 and 79.7 % for 12, 24 and 36 blocks.

DeiT's recipe, except for the epochs and the drop path, which is constant over depth. The authors
train with LAMB, a rate of 5e-3 and a weight decay of 0.2; this config uses AdamW. With DeiT's
recipe 36 blocks reached 79.8 % (in "Rethinking Token-Mixing MLP for MLP-based Vision Backbone").

    python main.py --config=configs/resmlp.py:36 --workdir=/tmp/resmlp
"""

import ml_collections

from configs import common

VARIANTS = {
    "12": "resmlp_12",
    "24": "resmlp_24",
    "36": "resmlp_36",
}


def get_config(variant: str = "12") -> ml_collections.ConfigDict:
    config = common.get_config(common.choose(VARIANTS, variant))
    config.train.epochs = 400.0
    return config
