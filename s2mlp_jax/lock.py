"""A lock on a folder: one process writes to it at a time."""

import contextlib
import fcntl
import os
import pathlib
import socket
import typing
from collections.abc import Iterator


class LockedError(ValueError):
    """Another process holds the lock; the message names it."""


@contextlib.contextmanager
def locked(path: pathlib.Path, work: str) -> Iterator[None]:
    """Holds a lock while the block runs.

    The kernel releases the lock when the process ends, however it ends, so a lock never outlives
    its process; the file stays.

    Args:
      path: file of the lock; its folder must exist.
      work: what the block does, for the message: "training in /runs/a".

    Raises:
      LockedError: if another process holds the lock; names its host and its number.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"Another process is {work} now: {_holder(file)}.") from None
        except OSError:
            pass  # a file system without locks; not `yield` here, which would be its context
        file.truncate(0)
        file.write(f"{socket.gethostname()}, process {os.getpid()}")
        file.flush()
        yield


def _holder(file: typing.IO[str]) -> str:
    file.seek(0)
    return file.read() or "it has not written its name yet"
