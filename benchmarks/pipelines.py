"""The input pipelines that `benchmarks.input_pipeline` compares: ours, tf.data, DataLoader."""

import dataclasses
import functools
import os
import tempfile
import typing
from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks import common
from s2mlp_jax import config as config_lib
from s2mlp_jax.data import sources
from s2mlp_jax.data.pipeline import train_batches
from s2mlp_jax.train import devices as devices_lib

SIZE = 224
FULL, SMALL = "imagenet2012", "imagenet2012_256"
CORES = common.CORES
_LENGTH = 1_281_167  # records per epoch: shuffling 64 records is slower than ImageNet

Batches = Iterator[typing.Any]


class Repeated:
    """A source that repeats another source up to the number of records of ImageNet."""

    def __init__(self, source: sources.Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return _LENGTH

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        return self._source[index % len(self._source)]


def open_repeated(name: str, data_dir: str) -> sources.Split:
    """Opens the repeated training split of a prepared data set."""
    split = sources.open_split(name, "train", data_dir)
    return dataclasses.replace(split, source=Repeated(split.source))


def ours(
    name: str, data_dir: str, batch_size: int, repeats: int = 1, decoder: str = "turbo"
) -> Batches:
    """Yields batches of our pipeline, on the device."""
    config = config_lib.load_config(common.config_file("s2mlp_wide"), {"data.decoder": decoder})
    data = config_lib.to_options(config).data
    layout = devices_lib.make_layout()
    for batch in train_batches(
        open_repeated(name, data_dir),
        data,
        seed=0,
        batch_size=batch_size,
        positions=devices_lib.local_positions(layout, batch_size),
        repeats=repeats,
        num_threads=CORES,
        prefetch=data.prefetch,
    ):
        yield devices_lib.shard_batch(layout, batch)


def tf_data(name: str, data_dir: str, batch_size: int, antialias: bool = False) -> Batches:
    """Yields batches of a standard tf.data pipeline, on the device."""
    import tensorflow as tf

    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def view(serialized: typing.Any) -> dict[str, typing.Any]:
        example = tf.io.parse_single_example(serialized, features)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(example["image"]),
            tf.zeros([0, 0, 4]),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        top, left, _ = tf.unstack(begin)
        height, width, _ = tf.unstack(size)
        box = tf.stack([top, left, height, width])
        image = tf.image.decode_and_crop_jpeg(example["image"], box, channels=3)
        image = tf.image.resize(image, [SIZE, SIZE], "bicubic", antialias=antialias)
        image = tf.image.random_flip_left_right(image)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
        return {"image": image, "label": tf.cast(example["label"], tf.int32)}

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for record in serialized_examples(name, data_dir):
                writer.write(record)
        dataset = tf.data.TFRecordDataset(path).repeat().shuffle(16 * batch_size)
        options = tf.data.Options()
        options.deterministic = False
        dataset = dataset.with_options(options).map(view, tf.data.AUTOTUNE)
        dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        for batch in dataset.as_numpy_iterator():
            yield jax.device_put(batch)


def serialized_examples(name: str, data_dir: str) -> Iterator[bytes]:
    """Yields the stored bytes of the training records."""
    source: typing.Any = sources.open_split(name, "train", data_dir).source
    records = source._source.data_source  # where TFDS reads the bytes
    yield from (records[i] for i in range(len(records)))


def data_loader(name: str, data_dir: str, batch_size: int) -> Batches:
    """Yields batches of a PyTorch DataLoader, on jax's device, without transposing channels."""
    import io

    import torch
    from PIL import Image
    from torchvision import transforms

    class Images:
        """A map-style data set."""

        def __init__(self) -> None:
            self.source = open_repeated(name, data_dir).source
            bicubic = transforms.InterpolationMode.BICUBIC
            self.view = transforms.Compose(
                [
                    transforms.RandomResizedCrop(SIZE, interpolation=bicubic),
                    transforms.RandomHorizontalFlip(),
                    transforms.PILToTensor(),
                ]
            )

        def __len__(self) -> int:
            return len(self.source)

        def __getitem__(self, index: int) -> tuple[typing.Any, int]:
            record = self.source[index]
            image = Image.open(io.BytesIO(record["image"])).convert("RGB")
            return self.view(image), record["label"]

    loader = torch.utils.data.DataLoader(Images(), batch_size, num_workers=CORES)
    for images, labels in loader:
        yield jax.device_put({"image": images.numpy(), "label": labels.numpy().astype(np.int32)})


PIPELINES: dict[str, Callable[[str, str, int], Batches]] = {
    "tf.data": tf_data,
    "tf.data, antialiased": functools.partial(tf_data, antialias=True),
    "DataLoader": data_loader,
    "ours": ours,
    "ours, three views an image": functools.partial(ours, repeats=3),
    "ours, data.decoder=pillow": functools.partial(ours, decoder="pillow"),
}
