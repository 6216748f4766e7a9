"""Computes Table 1 of the paper: what a token mixer's weights depend on, and how far it sees.

Each mixer stands alone in one block, with random weights, and its Jacobian tells: which tokens
reach another one, whether they do so in the same way at every place, and in every channel. Norms
are affine here, which keep tokens apart.
"""

import dataclasses
import typing
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.models.backbone import Block
from s2mlp_jax.models.mixers import MIXERS
from s2mlp_jax.models.variant import Variant

GRID = 9  # tokens per side
_DIM = 18  # two channels per segment of permute
_BASE = Variant(depth=1, dim=_DIM, norm="affine", affine_init=1.0, drop_path=0.0)

# Row of the table -> the fields that choose the mixer.
ROWS: dict[str, Mapping[str, typing.Any]] = {
    row: {"mixer": name, **fields}
    for name, mixer in MIXERS.items()
    for row, fields in mixer.relations.items()
}


@dataclasses.dataclass(frozen=True)
class Relation:
    """Result of the measurement of one mixer.

    Attributes:
      field: (GRID, GRID) bool, the tokens that reach the centre one in a block, skips included.
      spatial_specific: whether the way from one token to another depends on where they are, and
        not only on the offset between them.
      channel_specific: whether tokens are summed with other weights in other channels.
    """

    field: np.ndarray
    spatial_specific: bool
    channel_specific: bool


def relate(fields: Mapping[str, typing.Any], seed: int = 0) -> Relation:
    """Measures one mixer.

    Args:
      fields: of the variant, as in `ROWS`.
      seed: of weights and tokens.
    """
    variant = _BASE.replace(**fields)
    rng = np.random.default_rng(seed)
    # On a CPU: other devices have no float64, or one with the exponents of float32.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        noise = jnp.asarray(rng.normal(size=(1, GRID, GRID, _DIM)))
        block = Block(variant, 0, 0.0, jnp.float64)
        shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), noise, False))
        weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), shapes)
        field = _field(lambda x: block.apply(weights, x, False), noise, rng)

        # The mixer alone, with its layers over channels replaced by the identity, at equal tokens:
        # so a difference between two positions or channels can only come from the weights.
        mixer = variant.token_mixer(0, jnp.float64)
        weights_of_mixer = weights.get("params", {}).get("mixer", {})
        inner = {"params": _pass_channels(weights_of_mixer, mixer.channel_layers)}
        one = jnp.ones_like(noise)
        jacobian = np.asarray(jax.jacrev(lambda x: mixer.apply(inner, x)[0])(one)[..., 0, :, :, :])
    return Relation(field, not _same_everywhere(jacobian), not _same_in_all_channels(jacobian))


def _pass_channels(params: typing.Any, channel_layers: tuple[str, ...]) -> typing.Any:
    """Sets the biases of a mixer to zero and its layers over channels to the identity."""

    def change(path: typing.Any, x: jax.Array) -> jax.Array:
        names = [part.key for part in path]
        if names[-1] == "bias":
            return jnp.zeros_like(x)
        if len(names) == 2 and names[0] in channel_layers:
            return jnp.tile(jnp.eye(_DIM), (1, x.shape[1] // _DIM))
        return x

    return jax.tree.map_with_path(change, params)


def _field(
    function: typing.Callable[[jax.Array], jax.Array], x: jax.Array, rng: np.random.Generator
) -> np.ndarray:
    """Returns which tokens the centre token depends on."""
    weights = jnp.asarray(rng.normal(size=_DIM))
    gradient = jax.grad(lambda x: function(x)[0, GRID // 2, GRID // 2] @ weights)(x)
    return np.asarray(jnp.abs(gradient[0]).sum(-1) > 0)


def _same_everywhere(jacobian: np.ndarray) -> bool:
    """Returns whether the Jacobian from p to p + offset is the same for every p near the centre.

    Args:
      jacobian: (h, w, c, h, w, c), of the output with respect to the input.
    """
    near = range(GRID // 2 - 1, GRID // 2 + 2)
    for rows in range(-2, 3):
        for columns in range(-2, 3):
            ways = [jacobian[i + rows, j + columns, :, i, j, :] for i in near for j in near]
            if not all(np.allclose(way, ways[0], atol=1e-6) for way in ways):
                return False
    return True


def _same_in_all_channels(jacobian: np.ndarray) -> bool:
    """Returns whether all channels mix tokens with the same weights, and none mixes channels."""
    by_channel = np.einsum("hwcijc->chwij", jacobian)
    rest = jacobian - np.einsum("chwij,cd->hwcijd", by_channel, np.eye(_DIM))
    return np.allclose(by_channel, by_channel[:1], atol=1e-6) and np.allclose(rest, 0, atol=1e-6)


def field_name(field: np.ndarray) -> str:
    """Returns the shape of a field in words, and how many tokens it holds."""
    rows, columns = np.abs(np.indices(field.shape) - GRID // 2)
    shapes = {"itself": rows + columns == 0, "everything": np.ones_like(field)}
    shapes["row and column"] = (rows == 0) | (columns == 0)
    for radius in range(1, GRID // 2):
        shapes[f"diamond of radius {radius}"] = rows + columns <= radius
        shapes[f"square of radius {radius}"] = np.maximum(rows, columns) <= radius
        near = np.maximum(rows, columns) <= radius
        shapes[f"cross of radius {radius}"] = ((rows == 0) | (columns == 0)) & near
        shapes[f"column of radius {radius}"] = (columns == 0) & near
        shapes[f"row of radius {radius}"] = (rows == 0) & near
    count = int(field.sum())
    for name, shape in shapes.items():
        if (shape == field).all():
            return f"{name} ({count})"
    return f"another shape ({count})"


def table() -> str:
    """Returns the table as Markdown."""
    lines = [
        "| token mixer | receptive field of a block (tokens) | over positions | over channels |",
        "| :-- | :-- | :-- | :-- |",
    ]
    for name, fields in ROWS.items():
        found = relate(fields)
        spatial = "specific" if found.spatial_specific else "the same"
        channel = "specific" if found.channel_specific else "the same"
        lines.append(f"| {name} | {field_name(found.field)} | {spatial} | {channel} |")
    notes = (
        f"Measured by gradients, on {GRID}x{GRID} tokens of {_DIM} channels with random weights. "
        "Norms are affine: a group norm over the grid, as AS-MLP has it, lets every token reach "
        "every other one through its statistics, as split attention does through its mean. "
        "Over positions and channels: whether the weights that sum the tokens differ from place "
        "to place and from channel to channel, at equal tokens; attention makes its own of the "
        "tokens, so that they differ where the tokens do, and without a position embedding only "
        "there."
    )
    return "\n".join([*lines, "", notes])
