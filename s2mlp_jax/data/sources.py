"""TFDS -> random-access source: opens one split of a prepared data set.

Reading needs no TensorFlow and no network. Preparing (writing ArrayRecord files) needs
TensorFlow, and a download only happens if the caller asks for one.
"""

import dataclasses
import difflib
import importlib
import os
import typing

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from s2mlp_jax.data.augment import decode
from s2mlp_jax.quiet_tensorflow import import_tensorflow

# Data sets that are prepared without a download, on first use: name -> builder's module.
_EMBEDDED = {"digits": "s2mlp_jax.data.digits"}


class Source(typing.Protocol):
    """Random access to records {"image": bytes or (h, w, c) uint8, "label": int, "index": int}."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, typing.Any]: ...


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
      name: of the split, for messages: "cifar10/3.0.2 train".
      source: its records.
      num_classes: labels run from 0 to num_classes - 1.
      channels: of the images, 1 or 3.
      class_names: one a label.
      path: folder of the files.
    """

    name: str
    source: Source
    num_classes: int
    channels: int
    class_names: tuple[str, ...]
    path: str

    def __len__(self) -> int:
        return len(self.source)


class _Records:
    """TFDS records reduced to the image's encoded bytes and the label.

    What TFDS itself makes of a record's bytes are the same values, at twice the time.
    """

    def __init__(self, source: typing.Any, image_key: str, label_key: str) -> None:
        self._source, self._image_key, self._label_key = source, image_key, label_key

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        stored = self._source.data_source[int(index)]
        features = tf_example_pb2.Example.FromString(stored).features.feature
        return {
            "image": features[self._image_key].bytes_list.value[0],
            "label": features[self._label_key].int64_list.value[0],
            "index": int(index),
        }


class _Cached:
    """Every record, decoded once and kept in memory."""

    def __init__(self, source: Source, name: str, channels: int) -> None:
        records = (source[i] for i in range(len(source)))
        self._records = [{**record, "image": decode(record, channels, name)} for record in records]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        return self._records[int(index)]


def resolve_data_dir(data_dir: str) -> epath.Path:
    """Returns the folder of prepared data: the given one, else TFDS's default."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return epath.Path(data_dir or default).expanduser()


def prepare(name: str, data_dir: str, download: bool) -> None:
    """Prepares a data set as ArrayRecord files where that was asked for or needs no download.

    Does nothing if it is there already. To be called by one process before any opens it.
    """
    directory = resolve_data_dir(data_dir)
    if (name not in _EMBEDDED and not download) or _find(name, directory) is not None:
        return
    try:
        import_tensorflow()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Preparing data set {name!r} needs TensorFlow: pip install tensorflow-cpu. "
            f"Or copy a folder prepared elsewhere to {directory / name}."
        ) from error
    if name in _EMBEDDED:
        importlib.import_module(_EMBEDDED[name])  # registers it
        tfds.disable_progress_bar()
    _check_known(name)
    builder = tfds.builder(name, data_dir=str(directory), file_format="array_record")
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except Exception:
        if _find(name, directory) is None:  # else another run was quicker
            raise


def open_split(name: str, split: str, data_dir: str = "", cache: bool = False) -> Split:
    """Opens one split of a prepared data set.

    Args:
      name: a TFDS name, "cifar10", "oxford_iiit_pet:4.0.0", "my_dataset/config", ...
      split: "train", "test[:50%]", ..., in TFDS's notation.
      data_dir: folder that holds the prepared data sets; "" for TFDS's default.
      cache: decode every image once and keep all in memory.

    Raises:
      ValueError: data set, split or a suitable feature not there; the message says what to do.
    """
    directory = resolve_data_dir(data_dir)
    builder = _find(name, directory)
    if builder is None:
        _check_known(name)
        raise ValueError(_not_prepared(name, directory))
    info = builder.info
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"Data set {name!r} in {info.data_dir} is stored as {info.file_format.value}, which "
            "has no random access. Convert it: python -m tensorflow_datasets.scripts.cli.main "
            f"convert_format --dataset_dir={info.data_dir} --out_file_format=array_record"
        )
    image_key = _only_feature(name, info, tfds.features.Image)
    label_key = _only_feature(name, info, tfds.features.ClassLabel)
    try:
        records = builder.as_data_source(
            split=split, decoders={image_key: tfds.decode.SkipDecoding()}
        )
    except ValueError as error:
        raise ValueError(
            f"Data set {name!r} has no split {split!r}. It has {', '.join(info.splits)}."
        ) from error
    channels = info.features[image_key].shape[-1] or 3
    label = info.features[label_key]
    title = f"{info.full_name} {split}"
    source: Source = _Records(records, image_key, label_key)
    return Split(
        name=title,
        source=_Cached(source, title, channels) if cache else source,
        num_classes=label.num_classes,
        channels=channels,
        class_names=tuple(label.names),
        path=str(info.data_dir),
    )


class _Noise:
    """One image of noise under every index."""

    def __init__(self, length: int, image_size: int) -> None:
        self._length = length
        self._image = np.random.default_rng(0).integers(
            0, 256, (image_size, image_size, 3), dtype=np.uint8
        )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        return {"image": self._image, "label": int(index) % 1000, "index": int(index)}


def synthetic_split(image_size: int, length: int) -> Split:
    """A stand-in for ImageNet made of noise: for timing, without any files."""
    names = tuple(str(i) for i in range(1000))
    return Split("synthetic", _Noise(length, image_size), 1000, 3, names, "(memory)")


def _find(name: str, directory: epath.Path) -> tfds.core.DatasetBuilder | None:
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=str(directory))
    except tfds.core.registered.DatasetNotFoundError:
        return None


def _check_known(name: str) -> None:
    """Raises a ValueError if neither we nor TFDS know a data set of that name."""
    known = {*_EMBEDDED, *tfds.list_builders(with_community_datasets=False)}
    base = name.split("/")[0].split(":")[0]
    if base not in known:
        close = difflib.get_close_matches(base, known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"Unknown data set {name!r}: neither digits, synthetic, nor a name of "
            f"TensorFlow Datasets (https://www.tensorflow.org/datasets/catalog).{hint}"
        )


def _not_prepared(name: str, directory: epath.Path) -> str:
    start = f"Data set {name!r} is not prepared in {directory} (data.data_dir). "
    builder_cls = tfds.builder_cls(name.split("/")[0].split(":")[0])
    if builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return (
            f"{start}Its files must be fetched by hand. Then run: tfds build {name} "
            f"--file_format=array_record --data_dir={directory} --manual_dir=FOLDER_OF_THE_FILES"
        )
    return (
        f"{start}To download and prepare it, add --config.data.download=True, or run: "
        f"tfds build {name} --file_format=array_record --data_dir={directory}"
    )


def _only_feature(name: str, info: tfds.core.DatasetInfo, kind: type) -> str:
    """Returns the key of the feature of that kind; of several, the supervised one."""
    keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
    supervised = [key for key in keys if key in (info.supervised_keys or ())]
    if len(keys) != 1 and len(supervised) != 1:
        listed = ", ".join(f"{k}: {type(f).__name__}" for k, f in info.features.items())
        raise ValueError(
            f"Data set {name!r} needs one {kind.__name__} feature, or a supervised pair "
            f"that names one; it has {listed}."
        )
    return supervised[0] if len(supervised) == 1 else keys[0]
