"""The inference and training steps measured by the benchmarks of whole models."""

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
      call: starts the step and returns its result, which may not be computed yet.
      compiled: the compiled function.
      trace_seconds: seconds of tracing, from Python to StableHLO.
      compile_seconds: seconds of XLA's compilation.
    """

    call: Callable[[], Any]
    compiled: jax.stages.Compiled
    trace_seconds: float
    compile_seconds: float

    @property
    def temporaries(self) -> int:
        """Bytes of temporary buffers of the step, as XLA allocates them."""
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
    """Compiles forward pass, cross-entropy, backward pass and AdamW, with donated state.

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

    rest = dict(jax.tree.map(jnp.array, variables))  # copies, as donated arrays are deleted
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
