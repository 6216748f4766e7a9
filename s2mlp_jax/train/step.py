"""The training step: forward, backward, optimizer and average, as one compiled function."""

import types
import typing
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from s2mlp_jax import rng
from s2mlp_jax.data.on_device import training_batch
from s2mlp_jax.data.resident import batch_of_records
from s2mlp_jax.train import optim
from s2mlp_jax.train.state import TrainState, update_ema

if typing.TYPE_CHECKING:  # a step compiles without the data set packages
    from s2mlp_jax.train.experiment import Experiment

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
StepFunction = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]

# Steps of one program at most. A constant, so that the program never depends on how often a run
# logs, evaluates or saves: a run that is stopped and resumed is the same bit for bit.
MOST_STEPS = 64


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


def make_many_steps(run: "Experiment") -> jax.stages.Wrapped:
    """Returns the jitted function (state, data, records, count, the run's key) -> (state, metrics).

    It takes `count` steps, on the records[i] of the whole set `data` at step i; records is
    (MOST_STEPS, batch size). Metrics are (MOST_STEPS,) arrays, of which the first `count` are set.
    """
    layout, data_options = run.layout, run.options.data
    step = make_step_function(run)

    def one(
        state: TrainState, data: Batch, records: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        key_of_step = jax.random.fold_in(key, state.step)
        batch = batch_of_records(key_of_step, data, records, data_options)
        batch = jax.lax.with_sharding_constraint(batch, layout.batch)
        return step(state, batch, key)

    def many(
        state: TrainState, data: Batch, records: jax.Array, count: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def body(i: jax.Array, carry: typing.Any) -> typing.Any:
            state, lines = carry
            state, metrics = one(state, data, records[i], key)
            return state, {name: lines[name].at[i].set(x) for name, x in metrics.items()}

        shapes = jax.eval_shape(one, state, data, records[0], key)[1]
        empty = {name: jnp.zeros((MOST_STEPS,), x.dtype) for name, x in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (state, empty))

    return jax.jit(
        many,
        donate_argnums=0,
        in_shardings=(
            None,
            layout.replicated,
            layout.stacked_batch,
            layout.replicated,
            layout.replicated,
        ),
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
