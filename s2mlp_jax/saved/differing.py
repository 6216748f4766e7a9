"""What differs between what a folder holds and what is here: lines for a message."""

from collections.abc import Callable, Mapping
from typing import Any

_NONE = object()


def differing(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    not_there: str,
    not_here: str,
    show: Callable[[Any], str] = str,
) -> list[str]:
    """Lists the names whose values differ, with both, in order: "seed: 0 there, 1 here".

    Args:
      there: of the folder.
      here: of what is being started.
      not_there: stands for a value that `there` lacks.
      not_here: stands for a value that `here` lacks.
      show: makes a value, or what stands for it, readable.
    """
    return [
        f"{name}: {show(there.get(name, not_there))} there, {show(here.get(name, not_here))} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name, _NONE) != here.get(name, _NONE)
    ]
