"""The paper's ImageNet recipe. Every other config starts from it and changes some fields.

Sources: [S2] arXiv 2106.07477, section 4.1. [DeiT] facebookresearch/deit, main.py, whose
strategy the paper says it follows. [ours] neither the paper nor DeiT states it. [free]: the field
may change when a run is resumed (`config.FREE_FIELDS`).

The values that a field may have are declared with the field, in `s2mlp_jax/options.py` and the
modules that it imports.
"""

import typing

import ml_collections
from ml_collections import config_dict

from s2mlp_jax.models.variant import field_types


def model_config(name: str) -> ml_collections.ConfigDict:
    """Returns the model's name and its fields; unset fields keep the variant's values."""
    config = ml_collections.ConfigDict({"name": name})
    for field, kind in field_types().items():
        config[field] = config_dict.placeholder(kind)
    return config


def choose(variants: typing.Mapping[str, str], name: str) -> str:
    """Returns the model for the argument of a config, as in configs/mlp_mixer.py:b16.

    Raises:
      ValueError: the argument is unknown; the error lists the allowed ones.
    """
    if name not in variants:
        raise ValueError(f"Unknown variant {name!r}. Allowed are {', '.join(variants)}.")
    return variants[name]


def get_config(model: str = "s2mlp_wide") -> ml_collections.ConfigDict:
    """Returns the recipe for ImageNet-1K; locked, so a mistyped field is an error."""
    config = ml_collections.ConfigDict()
    config.model = model_config(model)
    config.seed = 0  # of the weights, the data order, the augmentation, drop path
    config.init_from = ""  # start from this model, a run or an exported folder; "": random weights
    config.freeze = ""  # patterns of parameter paths that are not trained: "embed,block_0?"

    config.data = data = ml_collections.ConfigDict()
    data.name = "imagenet2012"  # a TFDS name, digits, folder:/my/images, or synthetic (noise)
    data.train_split = "train"  # in TFDS notation, "train[:10%]" works too
    data.eval_split = "validation"  # of 50,000 images
    data.data_dir = ""  # prepared data; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets [free]
    data.download = False  # True lets TFDS use the network [free]
    data.cache = False  # True: decode every image once and keep all in memory [free]
    data.place = "host"  # of the images: device, host, auto; a resumed run keeps it [ours] [free]
    data.channels = 0  # of the images: 1 grey, 3 colour; 0: as in the data
    data.rotate = 0  # rotates all images counter-clockwise by 90, 180 or 270 degrees; a control
    data.image_size = 224  # pixels [S2]
    data.train_crop = "random_resized"  # or pad, resize [DeiT]
    data.crop_area_min = 0.08  # of random_resized [DeiT]
    data.crop_padding = 0  # pixels, of pad
    data.flip = 0.5  # probability of a horizontal flip [DeiT]
    data.repeats = 3  # views per image in a batch: repeated augmentation [S2], 3 [DeiT]
    data.eval_crop_ratio = 0.875  # resize to image_size / ratio, then central crop [DeiT]
    data.interpolation = "bicubic"  # [DeiT]
    data.decoder = "turbo"  # of training views; pillow: slower, the pixels of the reference [ours]
    data.on_corrupt = "stop"  # at a broken image; skip: leave it out and count it [ours] [free]
    data.max_pixels = 178_956_970  # a larger image is broken, as in Pillow [ours] [free]
    data.mean = (0.485, 0.456, 0.406)  # per channel, of pixels in [0, 1] [DeiT]
    data.std = (0.229, 0.224, 0.225)
    data.num_threads = 16  # threads that decode and augment [ours] [free]
    data.prefetch = 2  # batches prepared in advance, in addition to the one in use [ours] [free]

    # On the device. The paper follows DeiT, which uses "rand-m9-mstd0.5-inc1" and the rest.
    config.augment = augment = ml_collections.ConfigDict()
    augment.randaugment_ops = 2  # operations per image, 0: none [DeiT]
    augment.randaugment_magnitude = 9.0  # mean level, of 10 [DeiT]
    augment.randaugment_magnitude_std = 0.5  # [DeiT]
    augment.randaugment_prob = 0.5  # that a drawn operation is applied [DeiT]
    augment.erasing_prob = 0.25  # of a rectangle of noise, 0: none [DeiT]
    augment.erasing_area_min = 0.02  # part of the image [DeiT]
    augment.erasing_area_max = 1 / 3  # [DeiT]
    augment.erasing_aspect_min = 0.3  # height over width, at most 1 / 0.3 [DeiT]
    augment.mixup_alpha = 0.8  # of a Beta distribution, 0: no mixup [DeiT]
    augment.cutmix_alpha = 1.0  # of a Beta distribution, 0: no cutmix [DeiT]
    augment.mix_prob = 1.0  # that a batch is mixed, 0: neither [DeiT]
    augment.mix_switch_prob = 0.5  # that a mixed batch uses cutmix [DeiT]

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 1024  # global: over all devices and accumulation steps [S2]
    train.accumulation_steps = 1  # parts of the batch whose gradients are summed
    train.epochs = 300.0  # [S2]
    train.steps = 0  # if not 0, instead of epochs
    train.label_smoothing = 0.1  # used, rate not stated [S2]; 0.1 [DeiT]
    train.ema_decay = 0.99996  # of the averaged weights, 0: none [DeiT]
    train.dtype = "bfloat16"  # of the computation; weights stay float32 [ours]
    train.remat = False  # True: less memory, blocks are recomputed going back [ours] [free]
    train.shard_state = False  # True: shard weights, optimizer, average over devices [ours] [free]

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.learning_rate = 1e-3  # peak, for reference_batch_size [S2]
    optimizer.reference_batch_size = 1024  # the rate scales with the batch; 0: no scaling [DeiT]
    optimizer.warmup_epochs = 5.0  # linear; used, length not stated [S2]; 5 [DeiT]
    optimizer.warmup_learning_rate = 1e-6  # first value, not scaled [DeiT]
    optimizer.final_learning_rate = 1e-5  # end of the cosine, not scaled [S2]; at most the peak
    optimizer.weight_decay = 0.05  # AdamW, on kernels only [S2]
    optimizer.beta1 = 0.9  # [DeiT]
    optimizer.beta2 = 0.999  # [DeiT]
    optimizer.eps = 1e-8  # [DeiT]
    optimizer.grad_clip_norm = 0.0  # 0: no clipping [DeiT]
    optimizer.layer_decay = 1.0  # factor on the rate per layer, from the head down; 1: none

    config.eval = ml_collections.ConfigDict()
    config.eval.every_epochs = 1.0  # [free]
    config.eval.batch_size = 1024  # [free]

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_epochs = 1.0  # [free]
    config.checkpoint.keep = 3  # the latest ones; the best one is also kept [free]

    config.log = ml_collections.ConfigDict()
    config.log.every_steps = 50  # [free]
    config.log.tensorboard = True  # if TensorFlow and TensorBoard are installed [free]
    config.lock()
    return config
