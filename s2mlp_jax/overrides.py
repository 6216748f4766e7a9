"""Fields that a command line changes: --config.FIELD=VALUE, --model.FIELD=VALUE."""

import ast
import typing
from collections.abc import Iterable


def parse_overrides(arguments: Iterable[str], prefix: str) -> dict[str, typing.Any]:
    """Returns {"model.shift": "e"} for ["--config.model.shift=e"] and the prefix "--config.".

    A value is what Python reads it as, and else text.

    Raises:
      ValueError: for arguments that begin otherwise, all of them, or one without a value.
    """
    arguments = list(arguments)
    if unknown := [text for text in arguments if not text.startswith(prefix)]:
        raise ValueError(f"Unknown arguments {' '.join(unknown)}.")
    overrides: dict[str, typing.Any] = {}
    for argument in arguments:
        field, equals, text = argument.removeprefix(prefix).partition("=")
        if not equals:
            raise ValueError(f"{argument} has no value: {prefix}{field}=VALUE.")
        try:
            overrides[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            overrides[field] = text
    return overrides
