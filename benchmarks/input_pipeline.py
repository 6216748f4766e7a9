"""Images per second from prepared ImageNet records to a batch in device memory, ours and others'.

    python -m benchmarks.input_pipeline --data_dir=... --output=results/input_pipeline.md

data_dir holds imagenet2012 and imagenet2012_256, its copy with the short side at 256 pixels, both
written by `python -m s2mlp_jax.data.prepare`. A few dozen images will do, they are repeated. Every
pipeline makes random resized crops of 224 pixels, bicubic, flipped or not, in uint8 batches, and
ends with the batch in device memory:

- ours: `train_batches` and `shard_batch`, as the training loop uses them, a thread a core.
- tf.data: parse, sample_distorted_bounding_box, decode_and_crop_jpeg, resize, batch, prefetch, all
  with AUTOTUNE and in any order. It reads the same records from a TFRecord file, as it cannot
  read ArrayRecord. Its bicubic resize does not antialias, which is how it is mostly used; with
  antialiasing, as Pillow and we do it, it is a row of its own.
- DataLoader: Pillow and torchvision's transforms in a worker process a core, if torch is
  installed (--torch_python names another interpreter that has it).

Each runs in a process of its own that is asked, by turns, for some batches, once all the others
have filled their buffers and sleep. What was buffered is thrown away before the clock starts.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator

import jax
import numpy as np
import psutil

from benchmarks import common
from s2mlp_jax import config as config_lib
from s2mlp_jax import parallel
from s2mlp_jax.data import sources
from s2mlp_jax.data.pipeline import train_batches

SIZE = 224
FULL, SMALL = "imagenet2012", "imagenet2012_256"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_ROOT = pathlib.Path(__file__).resolve().parent.parent

_LENGTH = 1_281_167  # records of an epoch: to shuffle 64 is slower than to shuffle ImageNet

Batches = Iterator[typing.Any]


class Repeated:
    """A source over and over, until it has as many records as ImageNet."""

    def __init__(self, source: sources.Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return _LENGTH

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        return self._source[index % len(self._source)]


def open_repeated(name: str, data_dir: str) -> sources.Split:
    """Opens the training split of a prepared data set."""
    split = sources.open_split(name, "train", data_dir)
    return dataclasses.replace(split, source=Repeated(split.source))


def ours(
    name: str, data_dir: str, batch_size: int, repeats: int = 1, decoder: str = "turbo"
) -> Batches:
    """Yields batches of our pipeline, on the device."""
    config = config_lib.load_config(common.config_file("s2mlp_wide"), {"data.decoder": decoder})
    layout = parallel.make_layout()
    for batch in train_batches(
        open_repeated(name, data_dir),
        config_lib.make_crops(config),
        seed=0,
        batch_size=batch_size,
        positions=parallel.local_positions(layout, batch_size),
        repeats=repeats,
        num_threads=CORES,
        prefetch=config.data.prefetch,
    ):
        yield parallel.shard_batch(layout, batch)


def tf_data(name: str, data_dir: str, batch_size: int, antialias: bool = False) -> Batches:
    """Yields batches of the usual tf.data pipeline, on the device."""
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
    """Yields the training records as they are stored."""
    source: typing.Any = sources.open_split(name, "train", data_dir).source
    records = source._source.data_source  # what TFDS reads the bytes from
    yield from (records[i] for i in range(len(records)))


def data_loader(name: str, data_dir: str, batch_size: int) -> Batches:
    """Yields batches of a PyTorch DataLoader, on jax's device; the channels are not moved."""
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


def serve(pipeline: str, name: str, data_dir: str, batch_size: int) -> None:
    """Answers each number of batches on stdin with the images per second, and CPU ms an image."""
    batches = PIPELINES[pipeline](name, data_dir, batch_size)
    me = psutil.Process()

    def cpu_seconds() -> float:
        times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    for line in sys.stdin:
        count = int(line)
        for _ in range(24):  # all that can have been buffered, and the start
            jax.block_until_ready(next(batches))
        start, cpu = time.perf_counter(), cpu_seconds()
        for _ in range(count):
            jax.block_until_ready(next(batches))
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        images = count * batch_size
        print("measured", json.dumps([images / seconds, 1e3 * cpu / images]), flush=True)
    os._exit(0)  # with whatever threads and workers there are


class Candidate:
    """A pipeline on a data set, in its own process."""

    def __init__(
        self, python: str, pipeline: str, name: str, data_dir: str, batch_size: int, count: int
    ) -> None:
        arguments = {"serve": pipeline, "name": name, "data_dir": data_dir}
        arguments["batch_size"] = str(batch_size)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.input_pipeline"]
            + [f"--{flag}={value}" for flag, value in arguments.items()],
            cwd=_ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._count, self._psutil = count, psutil.Process(self._process.pid)
        self.cpu_milliseconds: list[float] = []

    def is_idle(self) -> bool:
        """Says whether the process, started before, does nothing for a moment."""
        family = [self._psutil, *self._psutil.children(recursive=True)]

        def used() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in family)

        before = used()
        time.sleep(0.1)
        return used() - before < 0.02

    def measure(self) -> float:
        """Returns the images per second."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{self._count}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("measured "):
                rate, milliseconds = json.loads(line.removeprefix("measured "))
                self.cpu_milliseconds.append(milliseconds)
                return rate
        raise RuntimeError("A pipeline's process ended; see its message above.")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def has_torch(python: str) -> bool:
    """Says whether an interpreter has torch and torchvision."""
    if python == sys.executable:
        return all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))
    return not subprocess.run([python, "-c", "import torch, torchvision"], check=False).returncode


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument("--data_dir", required=True, help="of imagenet2012 and imagenet2012_256")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=32, help="of one measurement; default 32")
    parser.add_argument("--torch_python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--serve", help="for this script's own use, as is --name")
    parser.add_argument("--name", default=FULL)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.name, args.data_dir, args.batch_size)
    top = common.header("Input pipeline")
    pipelines = [p for p in PIPELINES if p != "DataLoader" or has_torch(args.torch_python)]
    candidates = {
        (name, pipeline): Candidate(
            args.torch_python if pipeline == "DataLoader" else sys.executable,
            pipeline,
            name,
            args.data_dir,
            args.batch_size,
            args.batches,
        )
        for name in (FULL, SMALL)
        for pipeline in pipelines
    }
    labels = {f"{pipeline} | {name}": key for key in candidates for name, pipeline in (key,)}

    def measure(candidate: Candidate) -> float:
        while not all(other.is_idle() for other in candidates.values() if other.cpu_milliseconds):
            pass
        return candidate.measure()

    measurements = {
        label: functools.partial(measure, candidates[key]) for label, key in labels.items()
    }
    rates = common.alternate(measurements, args.rounds, warmup=1)
    parts = [top, _notes(args.batch_size, args.batches, args.rounds)]
    for name in (FULL, SMALL):
        rows = []
        for pipeline in pipelines:
            figures, of = rates[f"{pipeline} | {name}"], candidates[name, pipeline]
            rows.append(
                [
                    pipeline,
                    common.median(figures, digits=0),
                    common.ratio(figures, rates[f"tf.data | {name}"]),
                    common.ratio(figures, rates[f"tf.data | {FULL}"]),
                    f"{np.median(of.cpu_milliseconds[1:]):.2f}",
                ]
            )
            of.close()
        columns = ["", "images/s", "/ tf.data", f"/ tf.data on {FULL}", "CPU ms an image"]
        parts += [f"## {name}", common.table(columns, rows)]
    common.publish(parts, args.output)


def _notes(batch_size: int, batches: int, rounds: int) -> str:
    return (
        f"Batches of {batch_size}, {batches} a measurement. Medians over {rounds} rounds, each of "
        "which takes every pipeline once; in brackets the inter-quartile range. The ratios are "
        "medians of the rounds' ratios. The CPU time is of all of a pipeline's threads and "
        "processes: unlike the rate it does not depend on what else runs on the machine, but it "
        "does not show waiting either."
    )


if __name__ == "__main__":
    main()
