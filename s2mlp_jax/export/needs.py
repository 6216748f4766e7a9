"""Imports what an exporter needs, or says how to install it."""

import importlib
import types

INSTALL = "pip install -r requirements-export.txt -c constraints.txt"


def require(package: str, what: str) -> types.ModuleType:
    """Imports a package.

    Args:
      package: as it is imported.
      what: that needs it, for the message.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise  # it is there, and what it needs is not
        raise ValueError(f"{what} needs {package}: {INSTALL}") from None
