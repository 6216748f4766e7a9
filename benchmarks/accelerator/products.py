"""Matrix products alone: an upper bound on the speed of every model."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.schedule import Options, Record
from benchmarks.accelerator.timing import by_turns

# (inputs, outputs) of the linear layers of s2mlp_wide and s2mlp_deep.
LAYERS = ((768, 768), (768, 3072), (3072, 768), (384, 384), (384, 1536), (1536, 384))
# For y = x w and the gradient g of y: two operands and their product.
DIRECTIONS = {
    "forward": ("x", "w", "nc,cm->nm"),
    "input": ("g", "w", "nm,cm->nc"),
    "weights": ("x", "g", "nc,nm->cm"),
}


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the TFLOP/s of every layer for the tokens of a batch, and of a square product."""
    tokens = options.batch_size * 196
    square = 1024 if options.on_cpu else 8192
    for rows, inputs, outputs in [(tokens, *layer) for layer in LAYERS] + [(square,) * 3]:
        shapes = {"x": (rows, inputs), "w": (inputs, outputs), "g": (rows, outputs)}
        arrays = {
            name: jax.random.normal(jax.random.key(i), shape, options.dtype)
            for i, (name, shape) in enumerate(shapes.items())
        }
        calls: dict[str, Callable[[], jax.Array]] = {}
        for direction, (left, right, equation) in DIRECTIONS.items():
            # As in a model, the gradient of the weights is not rounded to bfloat16.
            wide = jnp.float32 if direction == "weights" and not options.on_cpu else None
            product = jax.jit(functools.partial(jnp.einsum, equation, preferred_element_type=wide))
            calls[direction] = functools.partial(product, arrays[left], arrays[right])
        seconds = by_turns(calls, options.seconds / 3, options.rounds)
        tera = 2e-12 * rows * inputs * outputs
        figures = {f"{k}, TFLOP/s": tera / float(np.median(s)) for k, s in seconds.items()}
        yield {"name": f"{rows} x {inputs} by {inputs} x {outputs}", **figures}
