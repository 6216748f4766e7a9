"""What an error while reading or writing means: damage, a disk that is full, or one that may pass.

Libraries report faults of the disk as OSError, or as text: TensorStore's begins with a status code
and ends with "No space left on device [os_error_code='28']".
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from s2mlp_jax.cli import DISK_FULL, UNUSABLE, ExitCode
from s2mlp_jax.progress import human_size

_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}  # a file is missing, or not what it was
_INTERRUPTS = (
    KeyboardInterrupt,
    MemoryError,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)
# Status codes of errors that are not caused by the content of a file.
_PASSING = "RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|CANCELLED|DEADLINE_EXCEEDED|ABORTED"


class DamagedError(ValueError):
    """A file is damaged: what it holds is not what was written."""


class DiskError(Exception):
    """Reading or writing failed, and may succeed later; nothing was lost."""

    exit_code = ExitCode.STOPPED


@contextlib.contextmanager
def reading(name: str, *unchanged: type[Exception]) -> Iterator[None]:
    """Turns an exception raised inside, other than `unchanged`, into one of two errors.

    Args:
      name: what is read, for the message.

    Raises:
      DamagedError: if a file is missing or its content is wrong.
      DiskError: if the cause is an interrupt, permissions, memory, or a fault of the disk.
    """
    try:
        yield
    except unchanged:
        raise
    except DamagedError as error:
        raise DamagedError(f"{name} is damaged: {error}.") from error
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
        if _may_pass(error):
            raise DiskError(f"{name} cannot be read now: {first_line}.") from error
        raise DamagedError(f"{name} is damaged: {first_line}.") from error


def check_room(folder: pathlib.Path, needed: float) -> None:
    """Raises a DiskError if the disk of a folder has less than `needed` bytes left."""
    if shutil.disk_usage(folder).free < needed:
        raise _full(folder, needed)


def _full(folder: pathlib.Path, needed: float) -> DiskError:
    free = shutil.disk_usage(folder).free
    return DiskError(
        f"The disk of {folder} is full: {human_size(free)} are free, {human_size(needed)} are "
        "needed. The last complete checkpoint was kept. Make room."
    )


@contextlib.contextmanager
def explained(folder: pathlib.Path, needed: float) -> Iterator[None]:
    """Explains an exception raised inside, while writing, whose cause is the disk.

    Args:
      folder: folder that is written to.
      needed: bytes that are being written, for the message.

    Raises:
      DiskError: if the disk is full.
      ValueError: if the folder cannot be written to.
    """
    try:
        yield
    except Exception as error:
        codes = _os_errors(error)
        if codes & DISK_FULL:
            raise _full(folder, needed) from error
        if codes & UNUSABLE:
            reason = os.strerror(min(codes & UNUSABLE))
            raise ValueError(f"{folder} cannot be written to: {reason}.") from error
        raise


def _may_pass(error: BaseException) -> bool:
    codes = _os_errors(error)
    return (
        bool(codes - _DAMAGE)
        or any(isinstance(e, _INTERRUPTS) for e in _chain(error))
        or any(re.search(rf"\b({_PASSING})\b", str(e)) for e in _chain(error))
    )


def _os_errors(error: BaseException) -> set[int]:
    """Returns the numbers of the operating system's errors that led to an exception."""
    codes = {e.errno for e in _chain(error) if isinstance(e, OSError) and e.errno}
    texts = (re.findall(r"os_error_code='(\d+)'", str(e)) for e in _chain(error))
    return codes | {int(number) for found in texts for number in found}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
