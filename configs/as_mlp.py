"""AS-MLP on ImageNet-1K (arXiv 2107.08391): 81.3, 83.1 and 83.3 % for t, s and b.

python main.py --config=configs/as_mlp.py:t --workdir=/tmp/as_mlp
"""

import ml_collections

from configs import common

VARIANTS = {
    "t": "as_mlp_t",
    "s": "as_mlp_s",
    "b": "as_mlp_b",
}


def get_config(variant: str = "t") -> ml_collections.ConfigDict:
    config = common.get_config(common.choose(VARIANTS, variant))
    config.data.repeats = 1
    config.train.ema_decay = 0.0
    config.optimizer.warmup_epochs = 20.0
    config.optimizer.warmup_learning_rate = 5e-7
    config.optimizer.final_learning_rate = 5e-6
    config.optimizer.grad_clip_norm = 5.0
    return config
