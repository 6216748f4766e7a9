"""Files and folders, as named on a command line, to a list of files."""

import os
import pathlib
from collections.abc import Iterator, Sequence


def find_files(paths: Sequence[str | pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yields files as they are named, and all that lie in folders, at any depth, by name.

    Hidden files and folders, .DS_Store and the like, are passed over where they are not named.
    What is no image is not: who reads it should say so.

    Raises:
      ValueError: at once, with all paths that are not there.
    """
    named = [pathlib.Path(path) for path in paths]
    if missing := [str(path) for path in named if not path.exists()]:
        raise ValueError(f"There is no file or folder {', '.join(missing)}.")
    return (file for path in named for file in _below(path))


def _refuse(error: OSError) -> None:
    raise ValueError(f"Cannot read {error.filename}: {error.strerror}.") from error


def _below(path: pathlib.Path) -> Iterator[pathlib.Path]:
    if not path.is_dir():
        yield path
        return
    seen: set[str] = set()  # a link may lead back up
    for folder, folders, files in os.walk(path, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield pathlib.Path(folder, name)
