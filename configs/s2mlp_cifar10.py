"""A small S²-MLP on CIFAR-10: 8 blocks of 128 channels over 8x8 tokens.

The whole recipe, as DeiT uses it for images of 32 pixels: a crop of the padded image instead of the
random resized crop, and no resize in evaluation. The translations of RandAugment, erasing and
cutmix are relative to the image size, so their values do not change. Runs of a few epochs are
better without most of the recipe: results/recipe.md.

    python main.py --config=configs/s2mlp_cifar10.py --workdir=/tmp/s2mlp_cifar10 \
        --config.data.download=True
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config("s2mlp_cifar")

    config.data.name = "cifar10"
    config.data.eval_split = "test"
    config.data.image_size = 32
    config.data.train_crop = "pad"
    config.data.crop_padding = 4
    config.data.eval_crop_ratio = 1.0
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.data.num_threads = 2

    config.train.batch_size = 256
    config.train.epochs = 100.0
    config.train.ema_decay = 0.999

    config.optimizer.reference_batch_size = 256

    config.eval.batch_size = 1000
    return config
