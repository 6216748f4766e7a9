"""Initial weights of a run, read from another model instead of drawn: `config.init_from`."""

import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.saved import pretrained
from s2mlp_jax.saved.arrays import check_arrays, flatten, leaf_name
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.weights_file import Weights
from s2mlp_jax.train.state import TrainState

HEAD = "params/head/"


class InitialWeights(typing.NamedTuple):
    """Weights to start from.

    Attributes:
      arrays: path, such as "params/block_00/mixer/fc_in/kernel", -> array; without the head, if
        it is new.
      notes: lines to print: what was loaded, and what differs in the source.
    """

    arrays: dict[str, np.ndarray]
    notes: list[str]

    def put_into(self, state: TrainState) -> TrainState:
        """Returns a newly drawn state with these weights put in."""

        def put(path: tuple[typing.Any, ...], drawn: jax.Array) -> jax.Array:
            found = self.arrays.get(leaf_name(path))
            return drawn if found is None else jnp.asarray(found, drawn.dtype)

        variables = jax.tree.map_with_path(put, state.variables)
        return state._replace(params=variables.pop("params"), model_state=variables)


def read_initial_weights(
    source: str,
    variant: Variant,
    shapes: typing.Any,
    class_names: tuple[str, ...],
    data: DataOptions,
) -> InitialWeights:
    """Reads weights for a new model from one that differs at most in its head.

    Args:
      source: argument of `s2mlp_jax.load`, or a file NAME.safetensors from `s2mlp_jax.export`.
      variant: variant of the new model.
      shapes: variables of the new model, nested; each leaf has a shape.
      class_names: classes of the new model's data. The head is read if the source has the same
        names; from a file, which has no names, if it has the same number of classes.
      data: data options of the new run.

    Raises:
      ValueError: if there is no such model, weights do not fit (one message names all of them),
        or the weights do not fit the image size.
    """
    try:
        stored, names, how = _read(source)
    except ValueError as error:
        raise ValueError(f"init_from: {error}") from error
    expected = {leaf_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes)}
    arrays = flatten(stored.variables)
    same_head = names == class_names if names else stored.num_classes == len(class_names)
    if not same_head:
        arrays = {name: x for name, x in arrays.items() if not name.startswith(HEAD)}
        expected = {name: x for name, x in expected.items() if not name.startswith(HEAD)}
    try:
        variant.check_other_size(stored.image_size, data.image_size)
        check_arrays(expected, arrays)
    except ValueError as error:
        raise ValueError(f"init_from {source}: {error}") from None
    notes = [*_describe(source, stored, variant, arrays, same_head, len(class_names))]
    for field in ("image_size", "interpolation", "mean", "std") if how else ():
        if (old := getattr(how, field)) != (new := getattr(data, field)):
            notes.append(f"differs from the initial model: data.{field} was {old!r}, is {new!r}")
    return InitialWeights(arrays, notes)


def _read(source: str) -> tuple[Weights, tuple[str, ...], Preprocessing | None]:
    """Returns the weights, the class names (() if there are none), and the preprocessing."""
    if pathlib.Path(source).is_dir():
        content = pretrained.read(source)
        return content.weights, content.class_names, content.preprocessing
    return pretrained.read_any(source), (), None


def _describe(
    source: str,
    stored: Weights,
    variant: Variant,
    arrays: dict[str, np.ndarray],
    same_head: bool,
    classes: int,
) -> typing.Iterator[str]:
    numbers = sum(x.size for x in arrays.values())
    yield f"{source}: {len(arrays)} arrays, {numbers:,} numbers"
    yield (
        f"the head too: the same {classes} classes"
        if same_head
        else f"a new head for {classes} other classes (there: {stored.num_classes})"
    )
    there = stored.variant
    for field, new in variant.fields().items():
        if (old := there.field(field)) != new:
            yield f"differs from the initial model: model.{field} was {old!r}, is {new!r}"
