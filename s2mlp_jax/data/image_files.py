"""Finds the files that a command line names, directly or by their folder."""

import os
import pathlib
from collections.abc import Iterator, Sequence


def find_files(paths: Sequence[str | pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yields named files, and all files in named folders, at any depth, sorted by name.

    Hidden files and folders, such as .DS_Store, are skipped unless named. Files that are not
    images are not skipped: the reader should report them.

    Raises:
      ValueError: immediately, with all paths that do not exist.
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
    seen: set[str] = set()  # a link may lead back to a parent
    for folder, folders, files in os.walk(path, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield pathlib.Path(folder, name)
