"""On the device, in jit: what is done to a whole batch of images and labels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Maps uint8 images (b, h, w, c) to (x / 255 - mean) / std in float32."""
    shape = (1, 1, 1, len(mean))
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32)).reshape(shape)
    offset = (jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)).reshape(shape)
    return images.astype(jnp.float32) * scale - offset


def smooth_labels(labels: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Maps labels (b,) to targets (b, num_classes): one-hot, mixed with uniform."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)
