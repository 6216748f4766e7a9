"""Data sets derived from a prepared one: smaller images, or some of its classes.

Each is a separate data set, written once, so that training reads only what it needs.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import time
import typing
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from s2mlp_jax.data import sources
from s2mlp_jax.data.decoding import BrokenImageError
from s2mlp_jax.data.prepare.reduce import RESTART_ROWS, encoder, reduce_image
from s2mlp_jax.data.prepare.workspace import check_room
from s2mlp_jax.progress import Meter, duration, human_size, say

_SHARD_BYTES = 128 << 20
_SAMPLES = 128  # images converted first, to estimate time and disk space

# ImageNet-1K: split -> (images, minimum and maximum images per class).
_IMAGENET = {"train": (1_281_167, 732, 1300), "validation": (50_000, 50, 50)}


@dataclasses.dataclass(frozen=True)
class Derived:
    """A derived data set to write.

    Attributes:
      source: name of the prepared data set to start from.
      name: name of the data set to write.
      short_side: short side, in pixels, that larger images are reduced to; 0 keeps all images
        unchanged.
      quality: quality of the JPEG files that are written, 1 to 100.
      classes: names of the classes to keep, in the order of their labels; None keeps all.
    """

    source: str
    name: str
    short_side: int
    quality: int
    classes: tuple[str, ...] | None

    def settings(self) -> dict[str, typing.Any]:
        """Returns the settings to record; data sets with equal settings are the same."""
        record: dict[str, typing.Any] = {}
        if self.short_side:
            record |= {"short_side": self.short_side, "jpeg_quality": self.quality}
            record |= {"jpeg_subsampling": "4:4:4", "resampling": "bicubic"}
        if self.classes is not None:
            record["classes"] = list(self.classes)
        return record


def read_classes(path: pathlib.Path) -> tuple[str, ...]:
    """Reads a list of class names, one per line, # before a comment; returns it sorted.

    Raises:
      ValueError: the file cannot be read, has no names, or has a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"Cannot read the list of classes {path}: {error.strerror}.") from error
    names = [name for line in lines if (name := line.split("#")[0].strip())]
    if not names:
        raise ValueError(f"{path} lists no class; a name, such as n01440764, is wanted a line.")
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"{path} lists {', '.join(twice)} more than once.")
    return tuple(sorted(names))


def write(derived: Derived, directory: pathlib.Path, allow_other_counts: bool) -> None:
    """Writes a derived data set; a failed attempt leaves nothing behind.

    Args:
      derived: the data set to write.
      directory: folder of the prepared data sets, including the source.
      allow_other_counts: accepts an imagenet2012 whose numbers of images differ from the real one.

    Raises:
      ValueError: source not prepared, a class it does not have, other counts than ImageNet's, not
        enough disk space, a broken image; the message says what to do.
    """
    builder = sources.open_builder(derived.source, str(directory))
    converter = _Converter(derived, builder)
    of_imagenet = derived.classes is not None and derived.source.startswith("imagenet2012")
    checks = _IMAGENET if of_imagenet and not allow_other_counts else {}
    for split, (images, _, _) in checks.items():
        held = builder.info.splits[split].num_examples if split in builder.info.splits else 0
        if held != images:
            raise ValueError(
                f"{builder.info.full_name} has {held:,} images in {split}, the real one "
                f"{images:,}. --allow_other_counts admits it."
            )
    sources.require_tensorflow(derived.name)
    version = str(builder.info.version)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        mean_bytes = _forecast(converter, directory, pool)
        with tfds.core.utils.incomplete_dir(str(directory / derived.name / version)) as folder:
            info = tfds.core.DatasetInfo(
                builder=tfds.core.dataset_info.DatasetIdentity(
                    name=derived.name, version=version, data_dir=folder, module_name=__name__
                ),
                description=f"Made of {builder.info.full_name} by s2mlp_jax.",
                features=converter.features,
                supervised_keys=builder.info.supervised_keys,
                homepage=builder.info.homepage,
                citation=builder.info.citation,
                metadata=tfds.core.MetadataDict(
                    dict(builder.info.metadata or {})
                    | {"source": builder.info.full_name, "encoder": encoder()}
                    # Not a setting: a copy without markers has the same images, read more slowly.
                    | ({"jpeg_restart_rows": RESTART_ROWS} if derived.short_side else {})
                    | derived.settings()
                ),
            )
            writer = tfds.core.SequentialWriter(
                info, max(1, int(_SHARD_BYTES / mean_bytes)), file_format="array_record"
            )
            writer.initialize_splits(list(builder.info.splits))
            for split in builder.info.splits:
                numbers = _write_split(converter, split, writer, pool, derived.name)
                if derived.classes is not None:
                    allowed = checks[split][1:] if split in checks else None
                    _check_counts(split, numbers, derived.classes, allowed)
                say(f"{sum(numbers):,} images, {min(numbers)} to {max(numbers)} in a class")
            writer.close_all()


class _Converter:
    """Turns records of the source into records of the derived data set; thread-safe."""

    def __init__(self, derived: Derived, builder: tfds.core.DatasetBuilder) -> None:
        info = builder.info
        self.builder, self._derived = builder, derived
        self.image_key = sources.only_feature(info, tfds.features.Image)
        self.label_key = sources.only_feature(info, tfds.features.ClassLabel)
        names = info.features[self.label_key].names
        self.class_names: tuple[str, ...] = derived.classes or tuple(names)
        unknown = sorted(set(self.class_names) - set(names))
        if unknown:
            raise ValueError(
                f"{', '.join(unknown[:5])}{', ...' if unknown[5:] else ''}: no class of "
                f"{info.full_name}, whose {len(names)} are {names[0]} to {names[-1]}."
            )
        new = {name: label for label, name in enumerate(self.class_names)}
        self._new_label = [new.get(name) for name in names]
        self.kept_part = len(new) / len(names)
        changed = {self.label_key: tfds.features.ClassLabel(names=list(self.class_names))}
        self.features = tfds.features.FeaturesDict({**dict(info.features.items()), **changed})

    def records(self, split: str) -> Sequence[dict[str, typing.Any]]:
        """Returns the source's records, with each image as the bytes of its file."""
        return self.builder.as_data_source(
            split=split, decoders={self.image_key: tfds.decode.SkipDecoding()}
        )

    def select(self, record: dict[str, typing.Any]) -> dict[str, typing.Any] | None:
        """Returns the record with its new label; None if its class is not kept."""
        label = self._new_label[int(record[self.label_key])]
        return None if label is None else {**record, self.label_key: label}

    def reduce(self, record: dict[str, typing.Any]) -> dict[str, typing.Any]:
        """Reduces the image to the short side, if one is set."""
        if not self._derived.short_side:
            return record
        image = record[self.image_key]
        try:
            image = reduce_image(image, self._derived.short_side, self._derived.quality)
        except BrokenImageError as error:
            texts = (v.decode(errors="replace") for v in record.values() if isinstance(v, bytes))
            name = next((text for text in texts if len(text) < 100), "")
            raise ValueError(
                f"Broken image in {self.builder.info.full_name}: {name}, {len(image)} bytes: "
                f"{error.reason}. Prepare that data set again from whole files."
            ) from error
        return {**record, self.image_key: image}


def _forecast(
    converter: _Converter, directory: pathlib.Path, pool: concurrent.futures.Executor
) -> float:
    """Converts some images, prints an estimate of the total time; returns bytes per record."""
    splits = converter.builder.info.splits
    total = sum(split.num_examples for split in splits.values())
    records = converter.records(max(splits, key=lambda name: splits[name].num_examples))

    def reduce(record: dict[str, typing.Any]) -> dict[str, typing.Any]:
        with contextlib.suppress(ValueError):  # a broken image, if kept, stops the writing later
            return converter.reduce(record)
        return record

    indices = np.linspace(0, len(records) - 1, min(_SAMPLES, len(records))).astype(int)
    start = time.perf_counter()
    read = list(pool.map(records.__getitem__, map(int, indices)))
    middle = time.perf_counter()
    reduced = list(pool.map(reduce, read))
    end = time.perf_counter()
    part = converter.kept_part
    mean_bytes = float(np.mean([len(record[converter.image_key]) for record in reduced])) + 200
    seconds = total * ((middle - start) + part * (end - middle)) / len(indices)
    check_room(directory, total * part * mean_bytes)
    say(
        f"{total:,} images to read, about {total * part:,.0f} to write, "
        f"{human_size(total * part * mean_bytes)}, in about {duration(seconds)} with "
        f"{os.cpu_count()} cores (estimated from {len(indices)} of them)."
    )
    return mean_bytes


def _write_split(
    converter: _Converter,
    split: str,
    writer: tfds.core.SequentialWriter,
    pool: concurrent.futures.Executor,
    name: str,
) -> list[int]:
    """Writes one split in the source's order; returns the number of images of each label."""
    records = converter.records(split)

    def convert(index: int) -> dict[str, typing.Any] | None:
        record = converter.select(records[index])
        return record and converter.reduce(record)

    numbers = [0] * len(converter.class_names)
    waiting: list[dict[str, typing.Any]] = []
    with Meter(f"{name} {split}", len(records), " images") as meter:
        for done, example in enumerate(_in_order(convert, len(records), pool), start=1):
            if example is not None:
                numbers[example[converter.label_key]] += 1
                waiting.append(example)
            if len(waiting) == 500 or done == len(records):
                writer.add_examples({split: waiting})  # rewrites the metadata each time
                waiting = []
            meter.show(done)
    writer.close_splits([split])
    return numbers


def _in_order(
    function: Callable[[int], typing.Any], length: int, pool: concurrent.futures.Executor
) -> Iterator[typing.Any]:
    """Yields function(0), function(1), ..., computed in threads shortly before they are needed."""
    futures: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for index in range(length):
            futures.append(pool.submit(function, index))
            if len(futures) > 16 * (os.cpu_count() or 1):
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


def _check_counts(
    split: str, numbers: list[int], names: tuple[str, ...], allowed: tuple[int, int] | None
) -> None:
    """Raises a ValueError if a class has no training image, or a number outside `allowed`."""
    least, most = allowed or (1 if split == "train" else 0, sum(numbers))
    wrong = [
        f"{name} has {number}"
        for name, number in zip(names, numbers, strict=True)
        if not least <= number <= most
    ]
    if wrong:
        wanted = f"{least} to {most}" if allowed else f"{least} or more"
        raise ValueError(
            f"Wrong numbers of images in {split}: {', '.join(wrong[:5])}"
            f"{', ...' if len(wrong) > 5 else ''}; a class must have {wanted}."
        )
