"""Shared by the exporters: package imports, and the model as a function of images only."""

import importlib
import types
import typing
from collections.abc import Callable

import jax
import numpy as np

from s2mlp_jax.models import Model, build

INSTALL = "pip install -r requirements-export.txt -c constraints.txt"


def require(package: str, what: str) -> types.ModuleType:
    """Imports a package.

    Args:
      package: name to import.
      what: feature that needs the package, for the message.

    Raises:
      ValueError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise  # the package is installed, but a dependency is not
        raise ValueError(f"{what} needs {package}: {INSTALL}") from None


def classifier(model: Model, variables: typing.Any) -> Callable[[jax.Array], jax.Array]:
    """Returns the model as a float32 function, images (b, h, w, c) -> logits (b, classes)."""
    model = build(model.variant, model.num_classes)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)

    def classify(images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    return classify
