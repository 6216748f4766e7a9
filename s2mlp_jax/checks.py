"""Which values a field may have, declared where the field is defined, and the one check of them.

    beta1: Annotated[float, Range("[0, 1)")]

An error names the field, its value, and what is allowed.
"""

import dataclasses
import difflib
import re
import typing
from collections.abc import Collection

_MOST_ENTRIES = 16  # of a tuple
_LONGEST_TEXT = 4096  # characters; the longest path that Linux takes


class FieldError(ValueError):
    """A field's value is not allowed; the message begins with the name of the field."""


class Rule(typing.Protocol):
    """Which values a field may have; of a tuple, which values its entries may have."""

    def wrong(self, value: typing.Any) -> str:
        """Returns "" for an allowed value, else what follows the field's name in the message."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers in an interval, "[0, 1)"; an end may be a power, "2^32". NaN is in no interval."""

    interval: str

    def wrong(self, value: float) -> str:
        """Returns "" for a number in the interval, else the end of the message."""
        low, high = map(_number, self.interval[1:-1].split(", "))
        above = value > low or (value == low and self.interval[0] == "[")
        below = value < high or (value == high and self.interval[-1] == "]")
        return "" if above and below else f"must be in {self.interval}, got {shown(value)}."


@dataclasses.dataclass(frozen=True)
class Choices:
    """Some values."""

    allowed: Collection[typing.Any]

    def wrong(self, value: typing.Any) -> str:
        """Returns "" for one of the values, else the end of the message."""
        if value in self.allowed:
            return ""
        hint = did_you_mean(value, self.allowed) if isinstance(value, str) else ""
        return f"{shown(value)} is unknown. Allowed are {', '.join(map(str, self.allowed))}.{hint}"


@dataclasses.dataclass(frozen=True)
class Text:
    """One line of text; whoever uses it checks what it says."""

    may_be_empty: bool = True

    def wrong(self, value: str) -> str:
        """Returns "" for such a text, else the end of the message."""
        if not value and not self.may_be_empty:
            return "must not be empty."
        if len(value) > _LONGEST_TEXT:
            return f"must have at most {_LONGEST_TEXT} characters, got {len(value)}."
        if re.search(r"[\x00-\x1f\x7f-\x9f]", value):
            return f"must have no control characters, got {shown(value)}."
        return ""


def rules(options: type) -> dict[str, Rule]:
    """Returns the rule of every field of a class that declares one."""
    hints = typing.get_type_hints(options, include_extras=True)
    return {
        name: hint.__metadata__[0]
        for name, hint in hints.items()
        if typing.get_origin(hint) is typing.Annotated
    }


def check_fields(group: str, options: object) -> None:
    """Checks every field of an object that declares a rule.

    Args:
      group: prefix of the fields in messages, "data.".
      options: an object whose class declares the fields.

    Raises:
      FieldError: a field has a value that is not allowed.
    """
    for field, rule in rules(type(options)).items():
        value = getattr(options, field)
        parts = {field: value}
        if isinstance(value, tuple):
            if len(value) > _MOST_ENTRIES:
                raise FieldError(
                    f"{group}{field} must have at most {_MOST_ENTRIES} entries, got {len(value)}."
                )
            parts = {f"{field}[{i}]": x for i, x in enumerate(value)}
        for name, x in parts.items():
            if wrong := rule.wrong(x):
                raise FieldError(f"{group}{name} {wrong}")


def _number(end: str) -> float:
    base, _, power = end.partition("^")
    return float(base) ** int(power or 1)


def shown(value: typing.Any) -> str:
    """Returns a value as Python writes it, for a message; what is too long is cut."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def did_you_mean(name: str, known: Collection[str], most: int = 1) -> str:
    """Returns " Did you mean 'a' or 'b'?" with the most similar known names, or ""."""
    close = difflib.get_close_matches(name, known, n=most)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
