"""Checks of option values: an error names the field, its value, and what is allowed."""

import difflib
import math
import typing
from collections.abc import Collection


def check_choices(group: str, options: object, **allowed: Collection[typing.Any]) -> None:
    """Checks that fields have allowed values.

    Args:
      group: prefix of the fields in messages, "data.".
      options: an object with the fields as attributes.
      allowed: field -> its allowed values.

    Raises:
      ValueError: a field has another value.
    """
    for field, choices in allowed.items():
        if (value := getattr(options, field)) not in choices:
            listed = ", ".join(map(str, choices))
            raise ValueError(f"Unknown {group}{field} {value!r}. Allowed are {listed}.")


def check_positive(group: str, options: object, *fields: str) -> None:
    """Checks that fields (numbers or tuples of numbers) are greater than 0.

    Raises:
      ValueError: a field is not greater than 0.
    """
    for field in fields:
        value = getattr(options, field)
        named = (
            {f"{field}[{i}]": x for i, x in enumerate(value)} if isinstance(value, tuple) else {}
        )
        for name, number in (named or {field: value}).items():
            if not number > 0:
                raise ValueError(f"{group}{name} must be greater than 0, got {number}.")


def check_range(group: str, options: object, interval: str, *fields: str) -> None:
    """Checks that fields lie in an interval.

    Args:
      interval: interval as text, "[0, 1)"; its ends may be "inf" or "2^32".

    Raises:
      ValueError: a field does not lie in the interval.
    """
    low, high = (_LIMITS.get(end) or float(end) for end in interval[1:-1].split(", "))
    for field in fields:
        value = getattr(options, field)
        above = value > low or (value == low and interval[0] == "[")
        below = value < high or (value == high and interval[-1] == "]")
        if not (above and below):  # NaN is in no interval
            raise ValueError(f"{group}{field} must be in {interval}, got {value}.")


_LIMITS = {"inf": math.inf, "2^32": 2**32}


def did_you_mean(name: str, known: Collection[str], most: int = 1) -> str:
    """Returns " Did you mean 'a' or 'b'?" with the most similar known names, or ""."""
    close = difflib.get_close_matches(name, known, n=most)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
