"""What a training step changes, and nothing else."""

import math
import typing

import jax
import jax.numpy as jnp
import optax

from s2mlp_jax.models import init
from s2mlp_jax.models.backbone import Backbone
from s2mlp_jax.rng import stream_key


class TrainState(typing.NamedTuple):
    """The state after `step` updates; `ema_params` is None where no average is kept."""

    step: jax.Array
    params: typing.Any
    opt_state: typing.Any
    ema_params: typing.Any


def create_state(
    model: Backbone,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_size: int,
    channels: int,
    use_ema: bool,
) -> TrainState:
    """Draws the weights of a run; `key` is the run's."""
    params = init(model, stream_key(key, "params"), image_size, channels)["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.zeros_like, params) if use_ema else None,
    )


def update_ema(
    ema_params: typing.Any, params: typing.Any, decay: float, count: jax.Array
) -> typing.Any:
    """Moves the average of the weights by one update.

    The weights of the average are those of a zero-started average with its bias corrected:
    after t updates those of update i are proportional to decay^(t-i) and sum to one. So the
    average is of use from the first step on, and for long runs it is the usual one.

    Args:
      count: updates including this one, from 1; the state's step serves.
    """
    rate = (1.0 - decay) / -jnp.expm1(count * math.log(decay))
    return jax.tree.map(lambda e, p: e + rate * (p - e), ema_params, params)
