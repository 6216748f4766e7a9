"""MLP-Mixer on ImageNet-1K (arXiv 2105.01601), with DeiT's recipe.

The paper reports 76.4 % for b16 trained only on ImageNet-1K, and 71.8 % for l16. With DeiT's recipe
b16 reached 77.2 % (in "Rethinking Token-Mixing MLP for MLP-based Vision Backbone"). The recipe of
its authors is different: a batch of 4096, a sigmoid loss and a linear decay.

    python main.py --config=configs/mlp_mixer.py:b16 --workdir=/tmp/mlp_mixer
"""

import ml_collections

from configs import common

VARIANTS = {
    "s32": "mlp_mixer_s32",
    "s16": "mlp_mixer_s16",
    "b32": "mlp_mixer_b32",
    "b16": "mlp_mixer_b16",
    "l16": "mlp_mixer_l16",
}


def get_config(variant: str = "b16") -> ml_collections.ConfigDict:
    return common.get_config(common.choose(VARIANTS, variant))
