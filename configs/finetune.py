"""Fine-tunes a trained model on other data: a smaller rate, fewer epochs, layer-wise decay.

python main.py --config=configs/finetune.py:MODEL --config.data.name=folder:/my/images --workdir=...

MODEL is the folder of a run, or one of `python -m s2mlp_jax.export`. The model, the image size, the
channels (grey or colour) and the normalisation are its own; another image size is
--config.data.image_size. If only a new head is to be trained: --config.freeze='[!h]*', all but the
head. (The running statistics of batch norms move nevertheless.) MODEL is read whenever the command
is given: keep it until the run is done.

Sources: [ConvNeXt] arXiv 2201.03545, appendix A, which fine-tunes from ImageNet-22K to ImageNet-1K.
"""

import ml_collections

from configs import common
from s2mlp_jax.saved import pretrained


def get_config(model: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe for a model; without one, the recipe alone.

    Raises:
      ValueError: no model there.
    """
    config = common.get_config()
    if model:
        name, fields, how = pretrained.describe(model)
        config.init_from = model
        config.model = common.model_config(name)
        for field, value in fields.items():
            config.model[field] = tuple(value) if isinstance(value, list) else value
        config.data.image_size = how.image_size
        config.data.eval_crop_ratio = how.crop_ratio
        config.data.interpolation = how.interpolation
        config.data.mean, config.data.std = how.mean, how.std
        config.data.channels = how.channels

    config.data.name = "folder:images"  # images/train/CLASS/*.jpg, images/val/CLASS/*.jpg
    config.data.eval_split = "val"
    config.data.repeats = 1
    config.data.crop_area_min = 0.35  # objects of fewer kinds, less to be found in a corner [ours]
    config.augment.mix_prob = 0.0  # [ConvNeXt]

    config.train.batch_size = 128  # [ours]
    config.train.epochs = 30.0  # [ConvNeXt]
    config.train.ema_decay = 0.999  # [ours]; 0.9999 for some 10,000 steps or more [ConvNeXt]

    config.optimizer.learning_rate = 5e-5  # where training has 1.25e-4 [ours], a tenth [ConvNeXt]
    config.optimizer.reference_batch_size = 128
    config.optimizer.final_learning_rate = 1e-6  # [ConvNeXt], its code
    config.optimizer.warmup_epochs = 1.0  # [ours]
    config.optimizer.layer_decay = 0.8  # [ConvNeXt]
    config.optimizer.weight_decay = 1e-8  # [ConvNeXt]
    return config
