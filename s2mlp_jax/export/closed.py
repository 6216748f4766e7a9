"""A model and its weights as one function of images alone, for what writes functions down."""

import typing
from collections.abc import Callable

import jax
import numpy as np

from s2mlp_jax.models import Model, build


def close(model: Model, variables: typing.Any) -> Callable[[jax.Array], jax.Array]:
    """Returns a function (b, h, w, c) -> (b, classes), whatever the dtypes were, in float32."""
    model = build(model.variant, model.num_classes)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)

    def classify(images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    return classify
