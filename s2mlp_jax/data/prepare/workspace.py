"""The folder of prepared data during writing: lock, removal of leftovers, disk space."""

import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
import time
import typing
from collections.abc import Iterator

from s2mlp_jax.cli import ExitCode
from s2mlp_jax.data import sources
from s2mlp_jax.lock import locked
from s2mlp_jax.progress import human_size, say


def local_folder(data_dir: str) -> pathlib.Path:
    """Returns the folder of prepared data, and creates it if needed.

    Raises:
      ValueError: if the folder is not on this machine.
    """
    directory = sources.resolve_data_dir(data_dir)
    if "://" in str(directory):
        raise ValueError(f"Prepare in a local folder, not in {directory}, and copy the result.")
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def alone_with(folder: pathlib.Path) -> Iterator[None]:
    """Locks the folder of one data set for this process, and removes what a killed process left.

    On SIGTERM and Ctrl-C, also removes unfinished data, and ends the process with
    `ExitCode.STOPPED`.

    Raises:
      LockedError: if another process is preparing the data set.
    """
    with locked(folder.parent / f".{folder.name}.lock", f"preparing {folder}"):
        for leftover in _leftovers(folder):
            say(f"Removing {leftover}, which an interrupted attempt left.")
            shutil.rmtree(leftover)

        def stop(*_: typing.Any) -> None:
            # An exception would be lost while a library is being imported or Python cleans up.
            for leftover in _leftovers(folder):
                shutil.rmtree(leftover, ignore_errors=True)  # the next start tries again
            # print would fail if the signal interrupted a print.
            os.write(2, b"Stopped, and cleared up. Start the same command again.\n")
            os._exit(ExitCode.STOPPED)

        numbers = (signal.SIGTERM, signal.SIGINT)
        previous = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the unfinished folders that TFDS has begun to write."""
    return sorted(folder.rglob("incomplete.??????_*"))


def check_room(folder: pathlib.Path, needed: float) -> None:
    """Raises a ValueError if the folder's disk has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {human_size(free)} left, {human_size(needed)} are needed. Make room, or "
            "choose another disk by --data_dir."
        )


def seconds_per_byte(file: pathlib.Path, folder: pathlib.Path) -> tuple[float, int]:
    """Copies the beginning of a file to the folder's disk and measures the time.

    Returns:
      Seconds per byte, and the number of bytes copied.
    """
    with file.open("rb") as source, tempfile.TemporaryFile(dir=folder) as target:
        start = time.perf_counter()
        copied = 0
        while copied < 256 << 20 and (block := source.read(8 << 20)):
            copied += target.write(block)
        target.flush()
        os.fsync(target.fileno())
        return (time.perf_counter() - start) / copied, copied
