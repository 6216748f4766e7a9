"""What every token mixer is: a module with fields, checks and a cost; and how one is registered."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from s2mlp_jax.checks import Choices, FieldError
from s2mlp_jax.models.layer_cost import Cost
from s2mlp_jax.models.layers import INITS, Draw, Dtype, linear, norm


@dataclasses.dataclass(frozen=True)
class Context:
    """What the skeleton tells a token mixer.

    Attributes:
      stage: number of the stage in a pyramid, from 0. The sides of the grid are halved before
        each stage after the first.
      init: how weights are drawn, a key of `layers.INITS`.
      norm: kind of norm, one of `layers.NORMS`.
      norm_eps: epsilon of the norm.
      dtype: compute dtype; parameters are float32.
    """

    stage: int = 0
    init: str = "normal"
    norm: str = "layer_norm"
    norm_eps: float = 1e-5
    dtype: Dtype = jnp.float32


class TokenMixer(nn.Module):
    """Maps tokens (b, h, w, c) to tokens of the same shape; subclasses define `__call__`.

    Norms, skips and drop path around a mixer belong to the skeleton. The annotated attributes of
    a subclass are its fields: each has a default and becomes a field of `Variant`, and so
    `model.FIELD` in a config. Two mixers that share the name of a field share its type. An
    annotation such as `Annotated[int, Range("[1, 64]")]` also declares which values are allowed.

    Attributes:
      context: set by the skeleton.
      bound_to_grid: whether its weights fit one size of the grid only.
      row_of_tokens: whether it may mix a row of tokens (b, 1, n, c), such as one with a class
        token: it then must not depend on rows and columns.
      channel_layers: names of its layers that act on each token alone.
      field_types: its own fields and their types, in order; set by `register`.
      relations: row of the table of `relations.py` -> fields that choose that form of the mixer.
    """

    context: Context = Context()

    bound_to_grid: ClassVar[bool] = False
    row_of_tokens: ClassVar[bool] = False
    channel_layers: ClassVar[tuple[str, ...]] = ()
    field_types: ClassVar[Mapping[str, type]] = {}
    relations: ClassVar[Mapping[str, Mapping[str, typing.Any]]] = {}

    def check(self, dim: int) -> None:
        """Raises a ValueError if the mixer cannot be made with `dim` channels in this stage."""

    def check_grid(self, grid: int) -> None:
        """Raises a ValueError if the mixer is made for another grid than `grid` tokens a side.

        The error's text completes "image_size 112 gives 16x16 tokens, and ...".
        """

    def cost(self, dim: int, tokens: int) -> Cost:
        """Counts parameters and multiply-accumulates for one image."""
        raise NotImplementedError(f"{type(self).__name__} must define cost(dim, tokens).")

    @property
    def draw(self) -> Draw:
        """How linear layers are drawn."""
        return INITS[self.context.init].linear

    def linear(self, x: jax.Array, features: int, name: str, use_bias: bool = True) -> jax.Array:
        """Applies a linear layer over the channels, as a submodule called `name`."""
        return linear(x, features, self.draw, self.context.dtype, name, use_bias)

    def norm(self, x: jax.Array, name: str) -> jax.Array:
        """Applies a norm of the skeleton's kind, as a submodule called `name`."""
        c = self.context
        return norm(c.norm, c.norm_eps, 1.0, c.dtype, name)(x)


MIXERS: dict[str, type[TokenMixer]] = {}  # name -> class, in the order of registration

_Mixer = typing.TypeVar("_Mixer", bound=type[TokenMixer])


def register(name: str) -> Callable[[_Mixer], _Mixer]:
    """Returns a class decorator that makes a token mixer known as `name`.

    The same class, defined again by a config file that is loaded twice, replaces the earlier one.

    Raises:
      ValueError: the name belongs to another class, or a field has no default, or another type
        than in another mixer.
    """

    def add(mixer: _Mixer) -> _Mixer:
        there = MIXERS.get(name)
        if there and there.__qualname__ != mixer.__qualname__:
            raise ValueError(f"There is a token mixer {name!r} already: {there.__qualname__}.")
        types, shared = _own_fields(mixer), mixer_fields(without=name)
        for field in dataclasses.fields(mixer):
            if field.name not in types:
                continue
            if field.default is dataclasses.MISSING:
                raise ValueError(
                    f"Field {field.name} of token mixer {name!r} needs a plain default value."
                )
            if shared.get(field.name, types[field.name]) is not types[field.name]:
                raise ValueError(
                    f"Field {field.name} of token mixer {name!r} is of type "
                    f"{types[field.name].__name__}, and another mixer has it as "
                    f"{shared[field.name].__name__}."
                )
        mixer.field_types = types
        MIXERS[name] = mixer
        return mixer

    return add


def _own_fields(mixer: type[TokenMixer]) -> dict[str, type]:
    """Returns the fields of a mixer's class and their types, in order."""
    inherited = {field.name for field in dataclasses.fields(TokenMixer)}
    hints = typing.get_type_hints(mixer)
    names = [field.name for field in dataclasses.fields(mixer) if field.name not in inherited]
    return {name: typing.get_origin(hints[name]) or hints[name] for name in names}


def mixer_fields(without: str = "") -> dict[str, type]:
    """Returns the fields of all registered mixers (but one) and their types."""
    fields: dict[str, type] = {}
    for name, mixer in MIXERS.items():
        if name != without:
            fields |= mixer.field_types
    return fields


def mixers_with(field: str) -> list[str]:
    """Returns the names of the mixers that have a field."""
    return [name for name, mixer in MIXERS.items() if field in mixer.field_types]


def default_of(field: str, mixer: str) -> typing.Any:
    """Returns the default of a field: that of the named mixer, or of the first one that has it."""
    cls = MIXERS[mixer if mixer in mixers_with(field) else mixers_with(field)[0]]
    return next(f.default for f in dataclasses.fields(cls) if f.name == field)


def find_mixer(name: str) -> type[TokenMixer]:
    """Returns the class of a mixer.

    Raises:
      ValueError: for an unknown name; lists what is known.
    """
    if wrong := Choices(MIXERS).wrong(name):
        raise FieldError(
            f"mixer {wrong} A mixer of your own is known once the file that registers it is "
            "imported (docs/extending.md)."
        )
    return MIXERS[name]
