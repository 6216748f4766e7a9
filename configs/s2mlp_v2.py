"""S²-MLPv2 on ImageNet-1K (arXiv 2108.01072).

small_7 82.0 %, medium_7 83.6 %, small_14 80.9 %. The recipe is S²-MLP's, except
for the rate, the warm-up, and repeated augmentation, which the paper does not mention.

    python main.py --config=configs/s2mlp_v2.py:small_7 --workdir=/tmp/s2mlp_v2
"""

import ml_collections

from configs import common

VARIANTS = {
    "small_7": "s2mlp_v2_small_7",
    "medium_7": "s2mlp_v2_medium_7",
    "small_14": "s2mlp_v2_small_14",
}


def get_config(variant: str = "small_7") -> ml_collections.ConfigDict:
    config = common.get_config(common.choose(VARIANTS, variant))
    config.data.repeats = 1
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_epochs = 10.0
    if variant == "medium_7":
        config.train.batch_size = 744
        config.optimizer.reference_batch_size = 744
    return config
