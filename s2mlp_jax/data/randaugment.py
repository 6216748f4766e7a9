"""RandAugment on the device, from a batch of uint8 images to a batch of uint8 images.

The fifteen operations are those of "rand-m9-mstd0.5-inc1" (timm's increasing set, with which
DeiT trains), and each gives the same pixels as Pillow. The images of a batch have different
operations, and choosing among fifteen results would cost as much as computing all fifteen. So
the operations are done in three stages: a table of 256 entries, a blend with a degenerate image,
and an affine warp. A stage leaves images with operations of other stages unchanged.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

OPERATIONS: tuple[str, ...] = (
    "auto_contrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
MAX_LEVEL = 10.0

# At the highest level: degrees, pixels per pixel, fraction of the side, |factor - 1|.
_ROTATE, _SHEAR, _TRANSLATE, _ENHANCE = 30.0, 0.3, 0.45, 0.9
_SOLARIZE_ADD, _SOLARIZE_ADD_BELOW = 110, 128


def rand_augment(
    key: jax.Array,
    images: jax.Array,
    num_ops: int,
    magnitude: float,
    magnitude_std: float,
    prob: float,
    fill: Sequence[int],
) -> jax.Array:
    """Applies operations drawn for each image (arXiv 1909.13719, in timm's form).

    Args:
      key: key of this step.
      images: (b, h, w, c) uint8, c 1 or 3.
      num_ops: number of operations drawn per image, with replacement, and applied in sequence.
      magnitude: mean level, in [0, 10].
      magnitude_std: standard deviation of the level, which is drawn for each operation from a
        normal distribution and clipped to [0, 10].
      prob: probability with which a drawn operation is applied.
      fill: (c,) grey levels for pixels that a warp takes from outside the image.

    Returns:
      (b, h, w, c) uint8.
    """
    batch = images.shape[:1]

    def layer(images: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        keys = jax.random.split(key, 4)
        operation = jax.random.randint(keys[0], batch, 0, len(OPERATIONS))
        applied = jax.random.bernoulli(keys[1], prob, batch)
        level = magnitude + magnitude_std * jax.random.normal(keys[2], batch)
        negate = jax.random.bernoulli(keys[3], 0.5, batch)
        operation = jnp.where(applied, operation, -1)
        level = jnp.clip(level, 0.0, MAX_LEVEL)
        return apply_operations(images, operation, level, negate, fill), None

    # A loop, not unrolled layers: XLA would fuse a layer into the next and compute it many times.
    return jax.lax.scan(layer, images, jax.random.split(key, num_ops))[0]


def apply_operations(
    images: jax.Array,
    operation: jax.Array,
    level: jax.Array,
    negate: jax.Array,
    fill: Sequence[int],
) -> jax.Array:
    """Applies one operation to each image.

    Args:
      images: (b, h, w, c) uint8.
      operation: (b,) indices into `OPERATIONS`; -1 leaves the image unchanged.
      level: (b,) strength, in [0, 10].
      negate: (b,) rotate, shear and translate in the other direction, reduce instead of enhance.
      fill: (c,) grey levels for pixels that a warp takes from outside the image.

    Returns:
      (b, h, w, c) uint8.
    """
    # The barriers keep XLA from computing a stage again for every pixel that the next stage reads.
    tables = _tables(images, operation, level)
    images = jax.lax.optimization_barrier(_look_up(images, jax.lax.optimization_barrier(tables)))
    strength = jnp.where(negate, -level, level) / MAX_LEVEL
    images = jax.lax.optimization_barrier(_enhance(images, operation, strength))
    return jax.lax.optimization_barrier(
        _warp(images, _matrices(images.shape, operation, strength), fill)
    )


def _is(operation: jax.Array, name: str) -> jax.Array:
    """(b,) -> (b, 1, 1): mask of the images that have this operation."""
    return (operation == OPERATIONS.index(name))[:, None, None]


def _tables(images: jax.Array, operation: jax.Array, level: jax.Array) -> jax.Array:
    """Returns the new grey level for each old one, (b, c, 256) uint8."""
    old = jnp.arange(256, dtype=jnp.int32)[None, None, :]
    part = (level / MAX_LEVEL)[:, None, None]
    counts = jax.lax.optimization_barrier(_histograms(images))
    low = jnp.argmax(counts > 0, axis=-1, keepdims=True)
    high = 255 - jnp.argmax(counts[..., ::-1] > 0, axis=-1, keepdims=True)

    # Map the darkest and the brightest level of each channel to 0 and 255.
    span = high - low
    stretched = jnp.where(span > 0, (old - low) * 255 // jnp.maximum(span, 1), old)

    # Equal numbers of pixels per level, not counting the brightest level that occurs.
    brightest = jnp.take_along_axis(counts, high, axis=-1)
    step = (images.shape[1] * images.shape[2] - brightest) // 255
    before = jnp.cumsum(counts, axis=-1) - counts
    equalized = jnp.where(step > 0, (before + step // 2) // jnp.maximum(step, 1), old)

    bits_off = 4 + (part * 4).astype(jnp.int32)
    threshold = 256 - (part * 256).astype(jnp.int32)
    added = (part * _SOLARIZE_ADD).astype(jnp.int32)
    new = {
        "auto_contrast": stretched,
        "equalize": equalized,
        "invert": 255 - old,
        "posterize": old >> bits_off << bits_off,
        "solarize": jnp.where(old < threshold, old, 255 - old),
        "solarize_add": jnp.where(old < _SOLARIZE_ADD_BELOW, old + added, old),
    }
    table = jnp.broadcast_to(old, counts.shape)
    for name, values in new.items():
        table = jnp.where(_is(operation, name), values, table)
    return jnp.clip(table, 0, 255).astype(jnp.uint8)


def _entries(images: jax.Array) -> jax.Array:
    """Returns each pixel's index in its image's table, (b, h, w, c); 256 entries per channel."""
    channels = jnp.arange(images.shape[-1], dtype=jnp.int32)
    return images.astype(jnp.int32) + 256 * channels[None, None, None, :]


def _histograms(images: jax.Array) -> jax.Array:
    """Counts the grey levels of each channel, (b, c, 256) int32."""
    b, _, _, c = images.shape

    def count(entries: jax.Array) -> jax.Array:
        return jnp.zeros(256 * c, jnp.int32).at[entries].add(1, mode="promise_in_bounds")

    return jax.vmap(count)(_entries(images).reshape(b, -1)).reshape(b, c, 256)


def _look_up(images: jax.Array, tables: jax.Array) -> jax.Array:
    """Replaces every grey level using the table of its image and channel."""

    def look_up(table: jax.Array, entries: jax.Array) -> jax.Array:
        return table.at[entries].get(mode="promise_in_bounds")

    return jax.vmap(look_up)(tables.reshape(len(tables), -1), _entries(images))


def _enhance(images: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """Moves images towards, or away from, grey, the mean, black or a smoothed image."""

    def chosen(name: str) -> jax.Array:
        return _is(operation, name)[..., None]

    x = images.astype(jnp.int32)
    grey = x
    if x.shape[-1] == 3:
        weights = jnp.asarray((19595, 38470, 7471), jnp.int32).reshape(1, 1, 1, 3)
        grey = ((x * weights).sum(-1, keepdims=True) + 2**15) >> 16
    pixels = grey.shape[1] * grey.shape[2]
    mean = (grey.sum(axis=(1, 2), keepdims=True) * 2 + pixels) // (2 * pixels)

    degenerate = jnp.where(chosen("color"), grey, x)
    degenerate = jnp.where(chosen("contrast"), mean, degenerate)
    degenerate = jnp.where(chosen("brightness"), 0, degenerate)
    degenerate = jnp.where(chosen("sharpness"), _smooth(x), degenerate)
    factor = jnp.maximum(0.1, 1.0 + _ENHANCE * strength)[:, None, None, None]
    blend = degenerate + factor * (x - degenerate)
    return jnp.clip(blend, 0.0, 255.0).astype(jnp.uint8)


def _smooth(x: jax.Array) -> jax.Array:
    """Averages 3x3 pixels, the middle one with weight five; the border stays unchanged."""
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    return x.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)  # rounded


def _matrices(shape: tuple[int, ...], operation: jax.Array, strength: jax.Array) -> jax.Array:
    """Returns (b, 2, 3) matrices from result to source coordinates (x, y), in pixels."""
    _, height, width, _ = shape

    def chosen(name: str, value: jax.Array) -> jax.Array:
        return jnp.where(operation == OPERATIONS.index(name), value, 0.0)

    angle = chosen("rotate", jnp.deg2rad(_ROTATE * strength))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    shear_x, shear_y = (chosen(f"shear_{axis}", _SHEAR * strength) for axis in "xy")
    move_x = chosen("translate_x", _TRANSLATE * width * strength)
    move_y = chosen("translate_y", _TRANSLATE * height * strength)
    # Rotate about the centre: subtract the shift of the centre by the rotation.
    x, y = width / 2, height / 2
    center_x = x - cos * x + sin * y
    center_y = y - sin * x - cos * y
    rows = (
        (cos, shear_x - sin, move_x + center_x),
        (shear_y + sin, cos, move_y + center_y),
    )
    return jnp.stack([jnp.stack(row, -1) for row in rows], 1)


def _warp(images: jax.Array, matrices: jax.Array, fill: Sequence[int]) -> jax.Array:
    """Samples each image, bicubically, at the points its matrix gives; `fill` outside."""
    b, h, w, c = images.shape
    x, y = jnp.arange(w) + 0.5, jnp.arange(h) + 0.5
    columns, rows = x[None, None, :], y[None, :, None]
    m = matrices[..., None, None]
    source_x = m[:, 0, 0] * columns + m[:, 0, 1] * rows + m[:, 0, 2]
    source_y = m[:, 1, 0] * columns + m[:, 1, 1] * rows + m[:, 1, 2]
    inside = (source_x >= 0) & (source_x < w) & (source_y >= 0) & (source_y < h)

    left, top = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
    dx, dy = (source_x - 0.5 - left)[..., None], (source_y - 0.5 - top)[..., None]
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)
    pixels = images.reshape(b, h * w, c)

    def at(i: int, j: int) -> jax.Array:
        index = jnp.clip(top + i, 0, h - 1) * w + jnp.clip(left + j, 0, w - 1)
        values = jax.vmap(lambda p, k: p.at[k].get(mode="promise_in_bounds"))(
            pixels, index.reshape(b, h * w)
        )
        return values.reshape(b, h, w, c).astype(jnp.float32)

    def row(i: int) -> jax.Array:
        return _cubic([at(i, j) for j in (-1, 0, 1, 2)], dx)

    value = _cubic([row(i) for i in (-1, 0, 1, 2)], dy)
    value = jnp.clip(value, 0.0, 255.0).astype(jnp.uint8)
    outside = jnp.asarray(fill, jnp.uint8).reshape(1, 1, 1, c)
    return jnp.where(inside[..., None], value, outside)


def _cubic(values: Sequence[jax.Array], at: jax.Array) -> jax.Array:
    """Interpolates between the second and third of four values (Pillow's cubic, slope -1)."""
    v1, v2, v3, v4 = values
    return v2 + at * ((v3 - v1) + at * (2.0 * (v1 - v2) + v3 - v4 + at * (v2 - v1 - v3 + v4)))
