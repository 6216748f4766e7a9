"""Randomness is a function of (seed, stream, step), so none of it needs checkpointing."""

import zlib

import jax


def stream_key(key: jax.Array, stream: str, step: jax.Array | int = 0) -> jax.Array:
    """Derives the key of a named stream at a step from the run's key."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(stream.encode())), step)
