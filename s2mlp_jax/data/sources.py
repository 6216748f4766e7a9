"""Opens one split of a data set with random access: from TFDS, a folder, the digits, or noise.

Reading needs neither TensorFlow nor the network. Preparing (writing ArrayRecord files) needs
TensorFlow; data are downloaded only if the caller asks for it.
"""

import functools
import os
import typing
from collections.abc import Callable

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from s2mlp_jax.data.decoding import MAX_PIXELS
from s2mlp_jax.data.digits import open_digits
from s2mlp_jax.data.folder import open_folder
from s2mlp_jax.data.names import DIGITS, check_known, folder_of, not_prepared
from s2mlp_jax.data.noise import NAME as NOISE
from s2mlp_jax.data.noise import open_noise
from s2mlp_jax.data.split import Source, Split
from s2mlp_jax.data.tensorflow import import_tensorflow

# Features that may contain a record's name; the first one present is used.
_NAMES = ("file_name", "filename", "image/filename", "id", "image_id")


class _Records:
    """TFDS records reduced to the image's encoded bytes, the label and the record's name.

    TFDS's own parsing of a record gives the same values but takes twice the time.
    """

    def __init__(
        self, source: typing.Any, image_key: str, label_key: str, name_key: str | None
    ) -> None:
        self._source, self._name_key = source, name_key
        self._image_key, self._label_key = image_key, label_key

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        stored = self._source.data_source[int(index)]
        features = tf_example_pb2.Example.FromString(stored).features.feature
        key = self._name_key
        name = features[key].bytes_list.value[0] if key is not None else b"%d" % index
        return {
            "image": features[self._image_key].bytes_list.value[0],
            "label": features[self._label_key].int64_list.value[0],
            "index": int(index),
            "key": name.decode(errors="replace"),
        }


def resolve_data_dir(data_dir: str) -> epath.Path:
    """Returns the folder of prepared data: the given one, or TFDS's default."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return epath.Path(data_dir or default).expanduser()


def prepare(name: str, data_dir: str, download: bool) -> None:
    """Downloads a data set and prepares it as ArrayRecord files, if `download` is True.

    Does nothing if the data set is already prepared or needs no preparation. Call it in one
    process before any process opens the data set.
    """
    if not download or not needs_files(name):
        return
    directory = resolve_data_dir(data_dir)
    if find(name, directory) is None:
        build(name, directory)


def needs_files(name: str) -> bool:
    """Returns whether a data set must be prepared; a folder, the digits and noise are ready."""
    return _opener(name) is None


def require_tensorflow(name: str) -> None:
    """Imports TensorFlow, or raises a ValueError that states what needs it."""
    try:
        import_tensorflow()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Preparing data set {name!r} needs TensorFlow: pip install -r "
            "requirements-tensorflow.txt -c constraints.txt. Or copy a folder prepared "
            "elsewhere into the folder of prepared data."
        ) from error


def build(name: str, directory: epath.Path, manual_dir: str = "") -> None:
    """Lets TFDS prepare a data set as ArrayRecord files; this may use the network.

    Args:
      name: name of the data set.
      directory: folder of the prepared data sets.
      manual_dir: folder of the files that were fetched by hand, if TFDS requires them.

    Raises:
      ValueError: unknown name, or TensorFlow is not installed.
    """
    require_tensorflow(name)
    check_known(name)
    builder = tfds.builder(name, data_dir=str(directory), file_format="array_record")
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir or None, try_download_gcs=False
            )
        )
    except Exception:
        if find(name, directory) is None:  # otherwise another run prepared it first
            raise


def open_split(
    name: str,
    split: str,
    data_dir: str = "",
    cache: bool = False,
    channels: int = 0,
    on_corrupt: str = "stop",
    max_pixels: int = MAX_PIXELS,
) -> Split:
    """Opens one split of an available data set.

    Args:
      name: a TFDS name, "cifar10", "oxford_iiit_pet:4.0.0", "my_dataset/config", ..., or
        "folder:/my/images" (see `folder.py`), "digits" or "synthetic" (see `noise.py`).
      split: "train", "test[:50%]", ..., in TFDS's notation.
      data_dir: folder of the prepared data sets; "" for TFDS's default. Not used for a folder
        of images.
      cache: decode every image once and keep all in memory.
      channels: 1 to read images in grey, 3 in colour; 0 for the channels of the data.
      on_corrupt: as in `Split.cached`, as `max_pixels` is; both are for a cache.

    Raises:
      ValueError: data set, split or a suitable feature not found; the message says what to do.
    """
    opener = _opener(name)
    opened = opener(split) if opener else _open_prepared(name, split, data_dir)
    opened = opened.read_with(channels)
    return opened.cached(on_corrupt, max_pixels) if cache else opened


def _opener(name: str) -> Callable[[str], Split] | None:
    """Returns a function from split to `Split`; None if the data set must be prepared first."""
    if path := folder_of(name):
        return functools.partial(open_folder, path)
    return {DIGITS: open_digits, NOISE: open_noise}.get(name)


def _open_prepared(name: str, split: str, data_dir: str) -> Split:
    builder = open_builder(name, data_dir)
    info = builder.info
    image_key = only_feature(info, tfds.features.Image)
    label_key = only_feature(info, tfds.features.ClassLabel)
    try:
        records = builder.as_data_source(
            split=split, decoders={image_key: tfds.decode.SkipDecoding()}
        )
    except ValueError as error:
        raise ValueError(
            f"Data set {name!r} has no split {split!r}. It has {', '.join(info.splits)}."
        ) from error
    if info.splits[split].num_examples < 1:
        raise ValueError(f"The split {split!r} of {name} is empty.")
    channels = info.features[image_key].shape[-1] or 3
    label = info.features[label_key]
    title = f"{info.full_name} {split}"
    texts = [k for k, f in info.features.items() if isinstance(f, tfds.features.Text)]
    name_key = next((key for key in _NAMES if key in texts), None)
    source: Source = _Records(records, image_key, label_key, name_key)
    return Split(
        name=title,
        source=source,
        num_classes=label.num_classes,
        channels=channels,
        class_names=tuple(label.names),
        path=str(info.data_dir),
        metadata=dict(info.metadata or {}),
    )


def open_builder(name: str, data_dir: str = "") -> tfds.core.DatasetBuilder:
    """Finds a prepared data set with random access.

    Raises:
      ValueError: it is not prepared, or has another file format; the message says what to do.
    """
    directory = resolve_data_dir(data_dir)
    builder = find(name, directory)
    if builder is None:
        check_known(name)
        raise ValueError(not_prepared(name, directory))
    info = builder.info
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"Data set {name!r} in {info.data_dir} is stored as {info.file_format.value}, which "
            "has no random access. Convert it: python -m tensorflow_datasets.scripts.cli.main "
            f"convert_format --dataset_dir={info.data_dir} --out_file_format=array_record"
        )
    return builder


def find(name: str, directory: epath.Path) -> tfds.core.DatasetBuilder | None:
    """Returns the builder of a data set's files, or None if it is not prepared.

    Raises:
      ValueError: TFDS cannot have a data set of that name.
    """
    try:
        tfds.core.naming.parse_builder_name_kwargs(name)
    except ValueError:  # its message has a dozen lines
        raise ValueError(
            f"Data set {name!r}: a name has the form NAME, NAME/CONFIG or NAME:VERSION, in "
            "letters, digits and _."
        ) from None
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=str(directory))
    except tfds.core.registered.DatasetNotFoundError:
        return None


def only_feature(info: tfds.core.DatasetInfo, kind: type) -> str:
    """Returns the key of the feature of type `kind`; if there are several, the supervised one."""
    keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
    supervised = [key for key in keys if key in (info.supervised_keys or ())]
    if len(keys) != 1 and len(supervised) != 1:
        listed = ", ".join(f"{k}: {type(f).__name__}" for k, f in info.features.items())
        raise ValueError(
            f"Data set {info.name!r} needs one {kind.__name__} feature, or a supervised pair "
            f"that names one; it has {listed}."
        )
    return supervised[0] if len(supervised) == 1 else keys[0]
