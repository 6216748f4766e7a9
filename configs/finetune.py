"""Fine-tunes a trained model on other data: a smaller rate, fewer epochs, layer-wise decay.

python main.py --config=configs/finetune.py:MODEL --config.data.name=folder:/my/images --workdir=...

MODEL is the folder of a run or a folder written by `python -m s2mlp_jax.export`. The model, the
image size, the channels (grey or colour) and the normalization are taken from it;
--config.data.image_size sets another image size. To train only a new head, freeze everything else:
--config.freeze='[!h]*'. (The running statistics of batch norms still change.) MODEL is read at
every start of the command: keep it until the run is done.

Sources: [ConvNeXt] arXiv 2201.03545, appendix A, which fine-tunes from ImageNet-22K to ImageNet-1K.
"""

import ml_collections

from configs import common
from s2mlp_jax.saved import pretrained


def get_config(model: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe for a model; without a model, only the recipe.

    Raises:
      ValueError: there is no model in the folder.
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
    config.data.crop_area_min = 0.35  # with few classes, a small corner says little [ours]
    config.augment.mix_prob = 0.0  # [ConvNeXt]

    config.train.batch_size = 128  # [ours]
    config.train.epochs = 30.0  # [ConvNeXt]
    config.train.ema_decay = 0.999  # [ours]; 0.9999 for about 10,000 steps or more [ConvNeXt]

    config.optimizer.learning_rate = 5e-5  # in training 1.25e-4 [ours]; a tenth in [ConvNeXt]
    config.optimizer.reference_batch_size = 128
    config.optimizer.final_learning_rate = 1e-6  # [ConvNeXt], its code
    config.optimizer.warmup_epochs = 1.0  # [ours]
    config.optimizer.layer_decay = 0.8  # [ConvNeXt]
    config.optimizer.weight_decay = 1e-8  # [ConvNeXt]
    return config
