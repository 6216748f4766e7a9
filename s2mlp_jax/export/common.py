"""What the exporters share: their packages, and the model as a function of images alone."""

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


def classifier(model: Model, variables: typing.Any) -> Callable[[jax.Array], jax.Array]:
    """Returns the function (b, h, w, c) -> (b, classes) that computes in float32."""
    model = build(model.variant, model.num_classes)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)

    def classify(images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    return classify
