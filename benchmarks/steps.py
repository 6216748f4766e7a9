"""The inference and the training step that the benchmarks of whole models measure."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05


class Step(NamedTuple):
    """A compiled step on arrays that stay on the device.

    Attributes:
      call: starts the step and returns its result, which may not be there yet.
      compiled: what is called.
      trace_seconds: from Python to StableHLO.
      compile_seconds: XLA's part.
    """

    call: Callable[[], Any]
    compiled: jax.stages.Compiled
    trace_seconds: float
    compile_seconds: float

    @property
    def temporaries(self) -> int:
        """Bytes of what lives within the step only, as XLA lays it out."""
        analysis = self.compiled.memory_analysis()
        return analysis.temp_size_in_bytes if analysis else 0


def inference(model: Any, variables: Mapping[str, Any], images: np.ndarray) -> Step:
    """Compiles the forward pass of a model on images (b, h, w, c)."""
    on_device = (jax.device_put(dict(variables)), jnp.asarray(images))
    forward = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    compiled, *seconds = _compile(forward, *on_device)
    return Step(lambda: compiled(*on_device), compiled, *seconds)


def training(
    model: Any, variables: Mapping[str, Any], images: np.ndarray, labels: np.ndarray
) -> Step:
    """Compiles forward pass, cross-entropy, backward pass and AdamW; the state is donated.

    Args:
      images: (b, h, w, c), normalised.
      labels: (b,) int.
    """
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def loss_fn(params: Any, rest: Any, images: jax.Array, labels: jax.Array) -> Any:
        logits, rest = model.apply(
            {"params": params, **rest}, images, train=True, mutable=list(rest)
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), rest

    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, rest, opt_state = state
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), grads = gradient(params, rest, images, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), rest, opt_state), loss

    rest = dict(jax.tree.map(jnp.array, variables))  # copies: what is donated is gone
    params = rest.pop("params")
    state = (params, rest, optimizer.init(params))
    on_device = (jnp.asarray(images), jnp.asarray(labels))
    compiled, *seconds = _compile(jax.jit(step, donate_argnums=0), state, *on_device)

    def call() -> Any:
        nonlocal state
        state, loss = compiled(state, *on_device)
        return state, loss

    return Step(call, compiled, *seconds)


def _compile(
    function: jax.stages.Wrapped, *arguments: Any
) -> tuple[jax.stages.Compiled, float, float]:
    """Returns the compiled function, and the seconds of tracing and of compiling."""
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, traced - start, time.perf_counter() - traced
