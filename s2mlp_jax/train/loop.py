"""Training, from a config to a checkpoint: the file that tells the whole story."""

import pathlib
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import optax

from s2mlp_jax import config as config_lib
from s2mlp_jax import rng
from s2mlp_jax.data.on_device import training_batch
from s2mlp_jax.progress import Progress, say
from s2mlp_jax.saved import run_folder as workdir_lib
from s2mlp_jax.saved.checkpoints import last_saved_step
from s2mlp_jax.train import describe, optim
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.data_wait import DataWait
from s2mlp_jax.train.experiment import Experiment, create_experiment
from s2mlp_jax.train.logbook import Logbook
from s2mlp_jax.train.signals import StopRequest
from s2mlp_jax.train.state import TrainState, update_ema
from s2mlp_jax.train.step_log import NonFiniteLossError

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
StepFunction = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


class Stopped(Exception):  # noqa: N818, it is no error
    """The run was asked to stop; it saved a checkpoint first."""


def make_train_step(run: Experiment) -> jax.stages.Wrapped:
    """Returns the jitted function (state, global batch, the run's key) -> (state, metrics)."""
    layout = run.layout
    return jax.jit(
        make_step_function(run),
        donate_argnums=0,
        in_shardings=(None, layout.batch, layout.replicated),  # the state as it comes
        out_shardings=(None, layout.replicated),
        compiler_options=layout.remat_options() if run.config.train.remat else None,
    )


def make_step_function(
    run: Experiment, constants: Mapping[str, typing.Any] = types.MappingProxyType({})
) -> StepFunction:
    """Returns what `make_train_step` compiles.

    Args:
      constants: variables of the model besides its parameters, collection -> arrays.
    """
    train, data = run.config.train, run.config.data
    model, optimizer, layout = run.model, run.optimizer, run.layout
    augmentation = config_lib.make_augmentation(run.config)

    def loss_fn(
        params: typing.Any,
        model_state: typing.Any,
        images: jax.Array,
        targets: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, typing.Any]:
        params = optim.stop_gradients(run.config, layout.gather(params))
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
            augmentation,
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
        """The mean loss and gradient over the batch, in `accumulation_steps` parts."""
        parts = train.accumulation_steps
        if parts == 1:
            return loss_and_gradients(params, model_state, batch, key)

        def split(x: jax.Array) -> jax.Array:
            # Part i takes images i, i + parts, ...: so each stays on the device that has it.
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
        if "corrupt" in batch:  # data.on_corrupt="skip": images a step that stand in for others
            metrics["corrupt_images"] = jnp.sum(batch["corrupt"], dtype=jnp.float32)
        new_state = TrainState(count, params, opt_state, model_state, *averages)
        return layout.constrain_state(new_state), metrics

    return train_step


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Trains to the end, or goes on with the run that the workdir holds.

    Args:
      config: see `configs/common.py`.
      workdir: a folder for config, metrics and checkpoints; made if it is not there.
      devices: all by default.

    Returns:
      The metrics of the last evaluation.

    Raises:
      ValueError: bad config, data that is not there, a workdir of another run.
      NonFiniteLossError: the loss became NaN; the message names the step.
      Stopped: the process was asked to stop, and the run was saved.
    """
    config = config_lib.complete(config)
    workdir_lib.check_config(pathlib.Path(workdir), config)
    return train(create_experiment(config, devices), workdir)


def train(
    run: Experiment, workdir: str | pathlib.Path, train_step: jax.stages.Wrapped | None = None
) -> dict[str, float]:
    """Does what `train_and_evaluate` does, of an experiment that is made already.

    Args:
      train_step: from `make_train_step`, for an experiment that differs in its seed at the most;
        it is compiled once for all that are given the same one. Made here by default.
    """
    if not last_saved_step(pathlib.Path(workdir)):
        _ = run.initial  # what is wrong there is found before the folder is made
    book = Logbook(run, pathlib.Path(workdir).absolute())
    try:
        state = book.restore()
        for line in describe.start(run, book.record["step"]):
            say(line)
        if versions := workdir_lib.changed_versions(book.record.get("versions", {})):
            say(f"Other versions than at the last checkpoint, so not bit for bit: {versions}")
        if book.record["step"] < run.total_steps:
            book.open_files()
            with StopRequest() as stop:
                _train(run, train_step or make_train_step(run), state, book, stop)
    except NonFiniteLossError as error:
        raise book.explain(error) from None
    finally:
        book.close()
    last_eval = book.write_result()
    for line in describe.summary(run, last_eval, book.workdir):
        say(line)
    return last_eval


def _train(
    run: Experiment,
    jitted: jax.stages.Wrapped,
    state: TrainState,
    book: Logbook,
    stop: StopRequest,
) -> None:
    """Trains from the book's step to the last one."""
    start_step, total_steps = book.record["step"], run.total_steps
    data = run.train_batches(start_step)

    def next_batch() -> Batch:
        return devices_lib.shard_batch(run.layout, next(data))

    batch = next_batch()
    started = time.perf_counter()
    train_step = jitted.lower(state, batch, run.key).compile()
    say(f"compiled  the training step in {time.perf_counter() - started:.1f} s")

    progress, waiting = Progress(total_steps, start_step), DataWait()
    book.start(progress, waited=lambda: waiting.seconds)

    # In the loop nothing goes to or from the device that is not asked for by name.
    with waiting, jax.transfer_guard("disallow"):
        for step in range(start_step + 1, total_steps + 1):
            state, metrics = train_step(state, batch, run.key)
            waiting.step_given(metrics["loss"])
            book.log.add(step, metrics)
            progress.advance()
            book.log.catch_up(step - 1)  # a step late, while the device is busy with this one

            stopping = stop.reached(step)
            book.after_step(step, lambda: state, stopping)  # noqa: B023, it is called at once
            if step == total_steps:
                break
            if stopping:
                progress.close()
                raise Stopped(f"Stopped at step {step} of {total_steps}, which is saved.")
            try:
                batch = waiting.take(next_batch)
            except ValueError:  # a broken image; what was trained until here is not lost
                if jax.process_count() == 1:  # else the others would have to save as well
                    book.save(step, state)
                raise
    progress.close()
    for line in describe.data_report(book.log):
        say(line)
