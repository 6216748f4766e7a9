"""The training state: exactly what a training step changes."""

import math
import typing

import jax
import jax.numpy as jnp
import optax

from s2mlp_jax.models import Model, init
from s2mlp_jax.rng import stream_key


class TrainState(typing.NamedTuple):
    """The state after `step` updates.

    Attributes:
      model_state: variables that training changes without gradients, collection -> arrays: the
        running statistics of batch norms. {} for models that have none.
      ema_params, ema_model_state: averages of `params` and `model_state`; None if none are kept.
    """

    step: jax.Array
    params: typing.Any
    opt_state: typing.Any
    model_state: typing.Any
    ema_params: typing.Any
    ema_model_state: typing.Any

    @property
    def variables(self) -> dict[str, typing.Any]:
        """The variables to apply the model with."""
        return {"params": self.params, **self.model_state}

    @property
    def ema_variables(self) -> dict[str, typing.Any] | None:
        """The averages, to apply the model with; None if no average is kept."""
        if self.ema_params is None:
            return None
        return {"params": self.ema_params, **self.ema_model_state}


def create_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_size: int,
    channels: int,
    use_ema: bool,
) -> TrainState:
    """Creates the state with newly drawn weights; `key` is the run's."""
    model_state = init(model, stream_key(key, "params"), image_size, channels)
    params = model_state.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        model_state=model_state,
        ema_params=jax.tree.map(jnp.zeros_like, params) if use_ema else None,
        ema_model_state=jax.tree.map(jnp.zeros_like, model_state) if use_ema else None,
    )


def update_ema(average: typing.Any, new: typing.Any, decay: float, count: jax.Array) -> typing.Any:
    """Updates the average of the weights, or of the model's state, once.

    This equals an average that starts at zero, with its bias corrected: after t updates, the
    coefficient of update i is proportional to decay^(t-i), and all of them sum to one. So the
    average is useful from the first step on, and for long runs it is the usual one.

    Args:
      count: number of updates including this one, from 1; the new state's step.
    """
    rate = (1.0 - decay) / -jnp.expm1(count * math.log(decay))
    return jax.tree.map(lambda e, p: e + rate * (p - e), average, new)
