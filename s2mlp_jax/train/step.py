"""The training step: forward, backward, optimizer and average, as one compiled function."""

import types
import typing
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from s2mlp_jax import rng
from s2mlp_jax.data.on_device import training_batch
from s2mlp_jax.train import optim
from s2mlp_jax.train.state import TrainState, update_ema

if typing.TYPE_CHECKING:  # a step compiles without the data set packages
    from s2mlp_jax.train.experiment import Experiment

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
StepFunction = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_train_step(run: "Experiment") -> jax.stages.Wrapped:
    """Returns the jitted function (state, global batch, the run's key) -> (state, metrics)."""
    layout = run.layout
    return jax.jit(
        make_step_function(run),
        donate_argnums=0,
        in_shardings=(None, layout.batch, layout.replicated),  # the state keeps its sharding
        out_shardings=(None, layout.replicated),
        compiler_options=layout.remat_options() if run.options.train.remat else None,
    )


def make_step_function(
    run: "Experiment", constants: Mapping[str, typing.Any] = types.MappingProxyType({})
) -> StepFunction:
    """Returns the function that `make_train_step` compiles.

    Args:
      constants: constant variables of the model, collection -> arrays.
    """
    options, train, data = run.options, run.options.train, run.options.data
    model, optimizer, layout = run.model, run.optimizer, run.layout

    def loss_fn(
        params: typing.Any,
        model_state: typing.Any,
        images: jax.Array,
        targets: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, typing.Any]:
        params = optim.stop_gradients(options.freeze, layout.gather(params))
        variables = {"params": params, **model_state, **constants}
        rngs = {"dropout": rng.stream_key(key, "dropout")}
        logits, model_state = model.apply(
            variables, images, train=True, rngs=rngs, mutable=list(model_state)
        )
        return optax.softmax_cross_entropy(logits, targets).mean(), model_state

    def loss_and_gradients(
        params: typing.Any, model_state: typing.Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, typing.Any, typing.Any]:
        images, targets = training_batch(
            key,
            batch,
            options.augment,
            data.mean,
            data.std,
            model.num_classes,
            train.label_smoothing,
        )
        differentiate = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, model_state), grads = differentiate(params, model_state, images, targets, key)
        return loss, grads, model_state

    def accumulate(
        params: typing.Any, model_state: typing.Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, typing.Any, typing.Any]:
        """Returns the mean loss and gradient of the batch, in `accumulation_steps` parts."""
        parts = train.accumulation_steps
        if parts == 1:
            return loss_and_gradients(params, model_state, batch, key)

        def split(x: jax.Array) -> jax.Array:
            # Part i takes images i, i + parts, ..., so that each image stays on its device.
            return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

        def add(before: typing.Any, part: typing.Any) -> tuple[typing.Any, None]:
            (*total, model_state), (batch, index) = before, part
            *one, model_state = loss_and_gradients(
                params, model_state, batch, jax.random.fold_in(key, index)
            )
            total = jax.tree.map(lambda t, x: t + x / parts, total, one)
            return (*total, model_state), None

        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params), model_state)
        return jax.lax.scan(add, start, (jax.tree.map(split, batch), jnp.arange(parts)))[0]

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        loss, grads, model_state = accumulate(state.params, state.model_state, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        count = state.step + 1
        averages = (state.ema_params, state.ema_model_state)
        if state.ema_params is not None:
            averages = update_ema(averages, (params, model_state), train.ema_decay, count)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": run.schedule(state.step),
        }
        if "corrupt" in batch:  # data.on_corrupt="skip": replaced images per step
            metrics["corrupt_images"] = jnp.sum(batch["corrupt"], dtype=jnp.float32)
        new_state = TrainState(count, params, opt_state, model_state, *averages)
        return layout.constrain_state(new_state), metrics

    return train_step
