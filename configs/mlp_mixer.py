"""MLP-Mixer on ImageNet-1K (arXiv 2105.01601), with DeiT's recipe.

The paper has 76.4 % for b16 trained on ImageNet-1K alone, and 71.8 % for l16; with DeiT's recipe
b16 was brought to 77.2 % (in "Rethinking Token-Mixing MLP for MLP-based Vision Backbone"). Its
authors' own recipe has a batch of 4096, a sigmoid loss and a linear decay, and is not this one.

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
