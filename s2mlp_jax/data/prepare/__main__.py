"""Prepares data sets for training.

  imagenet2012 --manual_dir=TARS    ImageNet-1K from its two official tars
  imagenet2012 --short_side=256     a smaller copy of it, imagenet2012_256
  imagenet100                       100 of its classes, s2mlp_jax/data/prepare/imagenet100.txt
  my_subset --wnids=my_list.txt     classes of your own choice, one name per line
  cifar10 --download                any set of TensorFlow Datasets
  folder:PATH                       images in folders: checks that the folders are as needed

After an interruption, start the same command again. Exit codes: 0 done, or there already;
2 bad input; 75 stopped by a signal.
"""

import argparse
import contextlib
import os
import pathlib
import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from s2mlp_jax.cli import ExitCode, Parser, command
from s2mlp_jax.data import names, sources
from s2mlp_jax.data.folder import open_folder
from s2mlp_jax.data.prepare import derived, tars
from s2mlp_jax.data.prepare.reduce import JPEG_QUALITY
from s2mlp_jax.data.prepare.workspace import (
    alone_with,
    check_room,
    local_folder,
    seconds_per_byte,
)
from s2mlp_jax.progress import Meter, duration, human_size, say

# TFDS's own time per image of ImageNet, on one core: docs/imagenet.md.
_SECONDS_PER_IMAGE = 1.3e-3
_ROOM = 1.02  # peak disk usage / size of the tars: docs/imagenet.md


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares a data set; returns the exit code."""
    flags = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    logging.set_verbosity(logging.ERROR)
    try:
        prepare(flags)
    except KeyboardInterrupt:
        print("Stopped; nothing was being written.", file=sys.stderr)
        return ExitCode.STOPPED
    return ExitCode.DONE


def prepare(arguments: argparse.Namespace) -> None:
    """Prepares one data set, unless it is already prepared.

    Raises:
      ValueError: the command line asks for something impossible; the message says why.
    """
    ready = not sources.needs_files(arguments.name)
    changed = ready and (arguments.short_side or arguments.wnids is not None)
    if changed or (arguments.source and not sources.needs_files(arguments.source)):
        raise ValueError(
            "Copies and subsets are made of TFDS's sets, not of folders of images, the digits or "
            "synthetic images."
        )
    if path := names.folder_of(arguments.name):
        _look_at_folder(path)
        return
    if ready:
        say(f"There is nothing to prepare. Train on it: --config.data.name={arguments.name}")
        return
    copy = _derived(arguments)
    name = copy.name if copy else arguments.name
    if not copy:
        names.check_known(name)
    directory = local_folder(arguments.data_dir)
    with alone_with(directory / names.base_name(name)):
        if sources.find(name, epath.Path(directory)) is None:
            if copy:
                derived.write(copy, directory, arguments.allow_other_counts)
            elif names.base_name(name) == "imagenet2012":
                _prepare_imagenet(arguments, directory)
            else:
                _prepare_other(arguments, directory)
        else:
            say("There already:")
        info = sources.open_builder(name, str(directory)).info
    if copy:
        _check_same(copy, dict(info.metadata or {}), info.data_dir)
    splits = ", ".join(f"{key} {split.num_examples:,}" for key, split in info.splits.items())
    say(f"{info.full_name} in {info.data_dir}: {splits} images, {human_size(info.dataset_size)}")
    say(f"Train on it: --config.data.name={name} --config.data.data_dir={directory}")


def _parser() -> Parser:
    parser = Parser(prog="python -m s2mlp_jax.data.prepare", description=__doc__)
    add = parser.add_argument
    add("name", help="name of the data set")
    add(
        "--data_dir",
        default="",
        help="folder of prepared data; default: $TFDS_DATA_DIR or ~/tensorflow_datasets",
    )
    add("--manual_dir", type=pathlib.Path, help="folder of files that were downloaded by hand")
    add("--download", action="store_true", help="allow TFDS to use the network")
    add(
        "--allow_other_tars",
        action="store_true",
        help="accept archives that differ from the official ones",
    )
    add(
        "--short_side",
        type=int,
        default=0,
        metavar="PIXELS",
        help="reduce larger images to this short side",
    )
    add(
        "--quality",
        type=int,
        default=JPEG_QUALITY,
        help="JPEG quality with --short_side; default %(default)s",
    )
    add(
        "--wnids",
        type=pathlib.Path,
        metavar="FILE",
        help="file with the classes of a subset, one per line",
    )
    add(
        "--source",
        default="imagenet2012",
        help="data set that a subset is taken from; default %(default)s",
    )
    add(
        "--allow_other_counts",
        action="store_true",
        help="accept a subset with other counts, from other archives",
    )
    return parser


def _derived(arguments: argparse.Namespace) -> derived.Derived | None:
    """Returns the data set to derive from a prepared one; None if the options ask for none."""
    name, side = arguments.name, arguments.short_side
    if side < 0 or not 1 <= arguments.quality <= 100:
        raise ValueError("--short_side must not be negative, --quality must be 1 to 100.")
    classes, source = None, name
    if arguments.wnids is not None:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"The name of a subset is small letters, digits and _, not {name!r}.")
        if name in (*names.SUBSETS, *tfds.list_builders(with_community_datasets=False)):
            raise ValueError(f"{name!r} is taken; give the subset of --wnids a name of its own.")
        classes, source = derived.read_classes(arguments.wnids), arguments.source
    elif name in names.SUBSETS:
        classes = derived.read_classes(pathlib.Path(__file__).with_name(f"{name}.txt"))
        source = arguments.source
    if not side and classes is None:
        return None
    return derived.Derived(
        source=source,
        name=f"{names.base_name(name)}_{side}" if side else name,
        short_side=side,
        quality=arguments.quality,
        classes=classes,
    )


def _look_at_folder(path: str) -> None:
    """Prints what a folder of images contains; it needs no preparation."""
    train = open_folder(path, "train")
    say(
        f"{train.path}: {len(train):,} images in train, {train.num_classes} classes, "
        f"channels: {train.channels}. There is nothing to prepare."
    )
    if os.path.isdir(os.path.join(train.path, "val")):
        say(f"{len(open_folder(path, 'val')):,} images in val. Train on it:")
        splits = "--config.data.eval_split=val"
    else:
        say("There is no folder val. Train on a part of it:")
        splits = "--config.data.train_split='train[:90%]' --config.data.eval_split='train[90%:]'"
    say(f"  --config.data.name=folder:{train.path} {splits}")


def _check_same(copy: derived.Derived, metadata: dict, folder: str) -> None:
    """Raises a ValueError if the existing data set was made with other settings."""
    for field, asked in copy.settings().items():
        if metadata.get(field) != asked:
            found = "others" if field == "classes" else metadata.get(field)
            raise ValueError(
                f"{folder} was prepared with another {field}: {found}. Remove the folder to "
                "prepare it anew."
            )


def _prepare_imagenet(arguments: argparse.Namespace, directory: pathlib.Path) -> None:
    if arguments.manual_dir is None:
        raise ValueError(
            f"imagenet2012 is made of {tars.TRAIN} and {tars.VALIDATION}: name the folder that "
            "holds them by --manual_dir."
        )
    say(f"Reading through the lists of files in {arguments.manual_dir}")
    contents = tars.check_tars(arguments.manual_dir, arguments.allow_other_tars)
    check_room(directory, contents.size * _ROOM)
    pace, copied = seconds_per_byte(arguments.manual_dir / tars.TRAIN, directory)
    seconds = contents.images * _SECONDS_PER_IMAGE + 2 * contents.size * pace
    say(
        f"{contents.images:,} images, {human_size(contents.size)}, in about {duration(seconds)}: "
        f"TFDS handles {1 / _SECONDS_PER_IMAGE:.0f} images/s, and writes everything twice, first "
        f"to shuffle it; a copy of {human_size(copied)} to {directory} took {pace * copied:.1f} s."
    )
    # TFDS keeps a thousand files open while it shuffles.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    tfds.disable_progress_bar()
    with _watched(directory / "imagenet2012", contents.size):
        sources.build(arguments.name, epath.Path(directory), str(arguments.manual_dir))


@contextlib.contextmanager
def _watched(folder: pathlib.Path, size: int) -> Iterator[None]:
    """Shows TFDS's progress by the files it writes: all images twice, `size` bytes each time."""
    finished = threading.Event()

    def written() -> int:
        total = 0
        for path in folder.glob("incomplete.*/*"):
            with contextlib.suppress(OSError):  # the file may be gone by now
                # Data in a final file were in a file for shuffling before, so they count twice.
                total += path.stat().st_size * (1 if path.suffix == ".tmp" else 2)
        return total

    def watch(meter: Meter) -> None:
        while not finished.wait(1.0):
            meter.show(written())

    with Meter("imagenet2012", 2 * size, "B") as meter:
        thread = threading.Thread(target=watch, args=(meter,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()


def _prepare_other(arguments: argparse.Namespace, directory: pathlib.Path) -> None:
    name = arguments.name
    instructions = names.manual_instructions(name)
    if instructions and arguments.manual_dir is None:
        raise ValueError(
            f"The files of {name} must be fetched by hand, into a folder that --manual_dir names. "
            f"TFDS says: {' '.join(instructions.split())}"
        )
    if names.may_download(name) and not arguments.download:
        raise ValueError(f"TFDS has to fetch files for {name}. Let it use the network: --download")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    manual_dir = "" if arguments.manual_dir is None else str(arguments.manual_dir)
    sources.build(name, epath.Path(directory), manual_dir)


if __name__ == "__main__":
    sys.exit(main())
