"""A small S²-MLP on scikit-learn's handwritten digits: minutes on a laptop, no download.

python main.py --config=configs/s2mlp_digits.py --workdir=/tmp/s2mlp_digits
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config("s2mlp_digits")

    config.data.name = "digits"
    config.data.eval_split = "test"
    config.data.cache = True
    config.data.image_size = 8
    config.data.train_crop = "pad"
    config.data.crop_padding = 1
    config.data.flip = 0.0  # a mirrored digit is a different symbol
    config.data.eval_crop_ratio = 1.0
    config.data.mean = (0.3,)  # the training images have mean 0.3053 and standard deviation 0.3762
    config.data.std = (0.38,)
    config.data.num_threads = 1

    # With 8x8 pixels and 30 epochs, a crop with one pixel of padding is enough augmentation.
    config.data.repeats = 1
    config.augment.randaugment_ops = 0
    config.augment.erasing_prob = 0.0
    config.augment.mix_prob = 0.0

    config.train.batch_size = 64
    config.train.epochs = 30.0
    config.train.ema_decay = 0.0
    config.train.dtype = "float32"

    config.optimizer.learning_rate = 2e-3
    config.optimizer.reference_batch_size = 64
    config.optimizer.warmup_epochs = 2.0

    config.eval.batch_size = 360
    config.checkpoint.every_epochs = 5.0
    config.log.every_steps = 20
    return config
