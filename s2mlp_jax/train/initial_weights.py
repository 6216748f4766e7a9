"""The weights that a run starts from, instead of drawn ones: `config.init_from`."""

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
      arrays: by path, "params/block_00/mixer/fc_in/kernel": ...; without a head, if that is new.
      notes: lines for a person: what was loaded, and what differs there.
    """

    arrays: dict[str, np.ndarray]
    notes: list[str]

    def put_into(self, state: TrainState) -> TrainState:
        """Returns a state that was just drawn, with these weights."""

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
    """Reads the weights of a model that another one, alike but for its head, is to start from.

    Args:
      source: what `s2mlp_jax.load` takes, or a file NAME.safetensors of `s2mlp_jax.export`.
      variant: of the model that starts.
      shapes: its variables, nested, of anything that has a shape.
      class_names: of its data. The head is taken over if they are those of the source; of a file,
        which has no names, if there are as many.
      data: of the run that starts.

    Raises:
      ValueError: no such model, weights that do not fit, all of them in one message, or an image
        size that they do not fit.
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
            notes.append(f"not as there: data.{field} was {old!r}, is {new!r}")
    return InitialWeights(arrays, notes)


def _read(source: str) -> tuple[Weights, tuple[str, ...], Preprocessing | None]:
    """Returns weights, the names of the classes, () if there are none, and the preprocessing."""
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
            yield f"not as there: model.{field} was {old!r}, is {new!r}"
