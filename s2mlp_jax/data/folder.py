"""A folder of images as a data set: train/CLASS/IMAGE and val/CLASS/IMAGE, read as they are.

Labels and order depend only on the names of folders and files. Adding, removing or renaming a file
makes another data set with another order; a run should not be continued on it.
"""

import collections
import functools
import hashlib
import os
import typing
from collections.abc import Iterator, Sequence

from s2mlp_jax.data.decoding import CUT_MODES, BrokenImageError, open_image, read_file
from s2mlp_jax.data.known_sizes import absolute_parts
from s2mlp_jax.data.split import Split
from s2mlp_jax.progress import plural, say

# Endings of image files. Other files, even if Pillow can read them, are skipped with a message.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_LAYOUT = "Images are to lie in train/CLASS/ and val/CLASS/, in a folder for each class."
_GREY_MODES = ("1", "L", "LA", "La")
_SAMPLE = 16  # images checked to decide whether all are grey


class _Files:
    """The images of a split, read on access; thread-safe.

    Args:
      root: the data set's folder.
      places: paths of the images in `root`, "train/cat/001.jpg".
      labels: class -> number.
    """

    def __init__(self, root: str, places: Sequence[str], labels: dict[str, int]) -> None:
        self._root, self._places, self._labels = root, places, labels

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        index = int(index)
        place = self._places[index]
        key = _key(place)
        image: bytes | BrokenImageError
        try:
            image = read_file(f"{self._root}/{place}")
        except BrokenImageError as error:  # `decode` raises it, so that "skip" skips the file
            image = error
        except OSError as error:
            raise _unreadable(f"{self._root}/{place}", error) from error
        label = self._labels[key.partition("/")[0]]
        return {"image": image, "label": label, "index": index, "key": key}


def open_folder(path: str, split: str) -> Split:
    """Opens one split of a folder of images.

    For every split, the classes are the sub-folders of train/ in the order of their names. Images
    may lie in further folders inside a class. Links are followed; names that begin with a dot are
    skipped. All images are read as grey (1 channel) if a sample of 16 images of train/, spread over
    the classes, is grey; otherwise with 3 channels.

    Args:
      path: the folder.
      split: a sub-folder, "train", "val", ..., or a part of it in TFDS's notation, "train[:90%]".

    Returns:
      The split. The order of its records depends only on their names; a record's key is its path
      relative to the split's folder, "cat/001.jpg".

    Raises:
      ValueError: a folder, a class or its images do not exist or cannot be read; the message names
        them. A file that cannot be read is an error later, when its record is decoded.
    """
    root = os.path.abspath(path)
    if not os.path.isdir(root):
        raise ValueError(f"There is no folder {root}. {_LAYOUT}")
    parts = [name for name in _scan(root)[0] if name != "all"]  # reserved in TFDS's notation
    if "train" not in parts:
        raise ValueError(f"{root} has no folder train, but {_listed(parts)}. {_LAYOUT}")
    classes = _classes(f"{root}/train")
    places = _select(root, split, parts, classes)
    return Split(
        name=f"folder:{root} {split}",
        source=_Files(root, places, {name: label for label, name in enumerate(classes)}),
        num_classes=len(classes),
        channels=_channels(f"{root}/train", classes),
        class_names=tuple(classes),
        path=root,
    )


def _select(root: str, split: str, parts: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Returns the paths of a split's images, "train/cat/001.jpg", in order."""
    named = [term.partition("[")[0].strip() for term in split.split("+")]
    if any(name not in parts for name in named):
        raise ValueError(
            f"{root} has no split {split!r}. It has {_listed(parts)}. Without a folder for the "
            "evaluation, cut train in two: train_split=train[:90%] eval_split=train[90%:]."
        )
    found = {name: _images_of(root, name, classes) for name in dict.fromkeys(named)}
    try:
        pieces = absolute_parts(split, {name: len(places) for name, places in found.items()})
    except (ValueError, NotImplementedError) as error:
        sizes = _listed([f"{name}, {len(places):,} images" for name, places in found.items()])
        reason = str(error).splitlines()[-1]
        raise ValueError(f"{root} ({sizes}) has no split {split!r}. {reason}") from error
    places = [place for name, start, stop in pieces for place in found[name][start:stop]]
    if not places:
        raise ValueError(f"The split {split!r} of {root} is empty.")
    return places


def _images_of(root: str, part: str, classes: Sequence[str]) -> list[str]:
    """Returns the paths of the images in train/ or val/, in the order of the split."""
    folder = f"{root}/{part}"
    here = _classes(folder)
    if unknown := sorted(set(here).difference(classes)):
        raise ValueError(
            f"{folder} has classes that {root}/train has not: {_listed(unknown)}. Their images "
            "would have no label."
        )
    others = collections.Counter("outside the classes" for _ in _scan(folder)[1])
    found: list[str] = []
    empty = []
    for name in here:
        before = len(found)
        found += _images(f"{folder}/{name}", f"{part}/{name}/", others)
        if len(found) == before:
            empty.append(name)
    if empty:
        raise ValueError(
            f"There is no image ({' '.join(ENDINGS)}) in these classes of {folder}: "
            f"{_listed(empty)}. Remove the folders that are not classes."
        )
    if others:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(others.items()))
        count = f"{plural(others.total(), 'file')} in {folder}"
        _say_once(f"Skipped {count} that are not images of a class: {kinds}")
    # A part such as train[:10%] should have images of every class, as in TFDS, which shuffles when
    # it writes. The order depends only on the names, so it is the same on every machine and file
    # system, and in evaluation.
    return sorted(found, key=lambda place: hashlib.sha1(os.fsencode(_key(place))).digest())


def _classes(folder: str) -> list[str]:
    """Returns the names of the classes in train/ or val/, sorted."""
    classes, files = _scan(folder)
    if not classes and (images := [name for name in files if _ending(name) in ENDINGS]):
        raise ValueError(
            f"{len(images):,} images lie directly in {folder}, such as {images[0]}, and there are "
            f"no classes. {_LAYOUT}"
        )
    if not classes:
        raise ValueError(f"There are no classes in {folder}. {_LAYOUT}")
    return classes


def _images(folder: str, prefix: str, others: collections.Counter[str]) -> Iterator[str]:
    """Yields prefix + path for the images in a folder; counts other files by their endings."""
    folders, files = _scan(folder)
    for name in files:
        if _ending(name) in ENDINGS:
            yield prefix + name
        else:
            others[_ending(name) or "without an ending"] += 1
    for name in folders:
        yield from _images(f"{folder}/{name}", f"{prefix}{name}/", others)


def _scan(folder: str) -> tuple[list[str], list[str]]:
    """Returns the sorted names of folders and of files in a folder, without hidden ones."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # needs no stat
    except OSError:  # a link to itself: reading it as a file reports the error
        return False


def _channels(train: str, classes: Sequence[str]) -> int:
    """Returns 1 if all readable images of a sample are grey, otherwise 3."""
    chosen = classes[:: -(-len(classes) // _SAMPLE)]
    each = -(-_SAMPLE // len(chosen))
    modes = set()
    for name in chosen:
        places = list(_images(f"{train}/{name}", f"{train}/{name}/", collections.Counter()))
        for path in places[:: -(-len(places) // each) or 1]:
            modes.add(_mode(path))
            if modes - {"", *_GREY_MODES}:
                return 3
    return 1 if modes - {""} else 3


def _mode(path: str) -> str:
    """Returns Pillow's mode of an image, "RGB" or "L"; "" for a broken one."""
    try:
        with open_image(path) as image:
            mode = image.mode
    except BrokenImageError:
        return ""  # reading it as a record reports the error
    if mode in CUT_MODES:
        raise ValueError(
            f"{path} has more than 8 bits a pixel (Pillow's mode {mode}), and Pillow makes white "
            "of all but its 255 darkest levels. Save such images with 8 bits."
        )
    return mode


def _key(place: str) -> str:
    """Returns "cat/001.jpg" for "train/cat/001.jpg"."""
    return place.partition("/")[2]


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no folder at all"


def _unreadable(path: str, error: OSError) -> ValueError:
    return ValueError(f"Cannot read {path}: {error.strerror}.")


@functools.lru_cache
def _say_once(message: str) -> None:
    """Prints a message once per process, however often the same folder is opened."""
    say(message, every_process=True)
