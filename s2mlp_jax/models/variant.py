"""The fields that define an architecture, and their checks."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Annotated

import jax.numpy as jnp
from flax.core import FrozenDict

from s2mlp_jax.checks import Choices, FieldError, Range, Text, check_fields
from s2mlp_jax.models import mixers
from s2mlp_jax.models.layers import DROP_PATH_RULES, INITS, NORMS, Dtype
from s2mlp_jax.models.mixers import MIXERS, TokenMixer

_Mixer = typing.TypeVar("_Mixer", bound=TokenMixer)

# Fields that have no effect on a ResNet.
NOT_RESNET = (
    *("mixer", "norm", "norm_position", "affine_init", "layer_scale", "embed_norm", "final_norm"),
    *("downsample", "pool", "position"),
)

# The upper ends are far above any model's, and below what hangs or takes all memory.
_Blocks = Range("[1, 1000]")
_Channels = Range("[1, 16384]")
_Scale = Annotated[float, Range("[0, 100]")]


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """An architecture. Every field can be overridden in `create_model` and in a config.

    The defaults are S²-MLP's. What its paper leaves open is marked (open); `docs/fidelity.md`
    gives the reasons, and those of the other papers.

    Raises:
      ValueError: at construction, if a field's value is not allowed.
    """

    depth: Annotated[int, _Blocks]  # blocks, N in the paper; in a pyramid, of the first stage
    dim: Annotated[int, _Channels]  # channels, c; in a pyramid, of the first stage
    later_depths: Annotated[tuple[int, ...], _Blocks] = ()  # pyramids: blocks of each later stage
    later_dims: Annotated[tuple[int, ...], _Channels] = ()  # and channels; each halves the grid
    expansion: Annotated[int, Range("[1, 64]")] = 4  # hidden width of the channel MLP over dim, r
    patch_size: Annotated[int, Range("[1, 8192]")] = 16  # pixels, p

    # The token mixer, a key of mixers.MIXERS, and values of mixer fields; a field that is missing
    # has the default of the mixer's class.
    mixer: Annotated[str, Text()] = "shift"
    mixer_fields: Mapping[str, typing.Any] = FrozenDict()

    # The skeleton around it: metaformer (blocks of token mixer and channel MLP), or resnet.
    skeleton: Annotated[str, Choices(("metaformer", "resnet"))] = "metaformer"
    # or affine (ResMLP's), as in the deep variant; group_norm
    norm: Annotated[str, Choices(NORMS)] = "layer_norm"
    # x + norm(f(x)), Figure 1; or pre, x + f(norm(x))
    norm_position: Annotated[str, Choices(("post", "pre"))] = "post"
    norm_eps: Annotated[float, Range("[1e-30, 1]")] = 1e-5  # (open) of layer_norm and group_norm
    affine_init: _Scale = 1e-6  # (open) initial scale of affine at the end of a branch
    layer_scale: _Scale = 0.0  # initial scale of each channel at the end of a branch; 0: none
    embed_norm: bool = True  # a norm after the patch embedding, section 3.2
    final_norm: bool = False  # a norm before pooling
    # between stages: embed patches of 2x2; or merge, a norm first
    downsample: Annotated[str, Choices(("embed", "merge"))] = "embed"
    # over tokens; or class_token, an additional one
    pool: Annotated[str, Choices(("mean", "class_token"))] = "mean"
    # or learned: an embedding is added to the tokens
    position: Annotated[str, Choices(("none", "learned"))] = "none"
    init: Annotated[str, Choices(INITS)] = "normal"  # (open) of the weights
    drop_path: Annotated[float, Range("[0, 1)")] = 0.1  # (open) DeiT's rate
    # (open) linear in depth, or constant
    drop_path_rule: Annotated[str, Choices(DROP_PATH_RULES)] = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mixer_fields", FrozenDict(self.mixer_fields))
        if not all(type(number) is int for number in (*self.later_depths, *self.later_dims)):
            raise FieldError(
                "later_depths and later_dims must hold integers, "
                f"got {self.later_depths} and {self.later_dims}."
            )
        check_fields("", self)
        if len(self.later_depths) != len(self.later_dims):
            raise FieldError(
                f"later_depths {self.later_depths} and later_dims {self.later_dims} "
                "must be of the same length, one entry for each stage after the first."
            )
        if self.skeleton == "resnet":
            self._check_resnet()
        else:
            self._check_mixer()

    def _check_resnet(self) -> None:
        if self.patch_size not in (1, 4):
            raise FieldError(
                f"patch_size {self.patch_size} of a ResNet's stem must be 4 (7x7 convolution and "
                "pooling) or 1 (3x3 convolution, for small images)."
            )

    def _check_mixer(self) -> None:
        if self.pool == "class_token" and (self.later_dims or not self._mixer_class.row_of_tokens):
            rows = ", ".join(name for name, mixer in MIXERS.items() if mixer.row_of_tokens)
            raise FieldError(
                "pool class_token makes a row of the tokens, so it goes with one stage and the "
                f"mixers {rows}, not with {self.mixer} in {len(self.dims)}."
            )
        if clash := self._mixer_class.field_types.keys() & set(_SKELETON_FIELDS):
            raise ValueError(
                f"The token mixer {self.mixer} has a field {', '.join(sorted(clash))}, which is "
                "one of the skeleton: give it another name."
            )
        for stage, dim in enumerate(self.dims):
            mixer = self.token_mixer(stage)
            check_fields("", mixer)
            try:
                mixer.check(dim)
            except FieldError:
                raise
            except ValueError as error:
                raise FieldError(f"mixer {self.mixer} with dim {dim}: {error}") from None

    @property
    def _mixer_class(self) -> type[TokenMixer]:
        return mixers.find_mixer(self.mixer)

    def token_mixer(
        self, stage: int = 0, dtype: Dtype = jnp.float32, name: str | None = None
    ) -> TokenMixer:
        """Returns the mixer of a stage, a module that also holds the mixer's fields and checks.

        Raises:
          ValueError: for an unknown mixer.
        """
        context = mixers.Context(stage, self.init, self.norm, self.norm_eps, dtype)
        own = {field: self.field(field) for field in self._mixer_class.field_types}
        return self._mixer_class(context, **own, name=name)

    def mixer_as(self, kind: type[_Mixer]) -> _Mixer | None:
        """Returns the token mixer if it is of this class, else None; None for a ResNet."""
        if self.skeleton == "resnet":
            return None
        mixer = self.token_mixer()
        return mixer if isinstance(mixer, kind) else None

    def field(self, name: str) -> typing.Any:
        """Returns the value of a field of the skeleton or of a mixer."""
        if name in _SKELETON_FIELDS:
            return getattr(self, name)
        if name in self.mixer_fields:
            return self.mixer_fields[name]
        return mixers.default_of(name, self.mixer)

    def fields(self) -> dict[str, typing.Any]:
        """Returns the values of all fields, including those of all registered mixers."""
        return {name: self.field(name) for name in field_types()}

    def __eq__(self, other: object) -> bool:
        # By value: a field set to its default equals a field that is not set.
        return isinstance(other, Variant) and self.fields() == other.fields()

    def __hash__(self) -> int:
        return hash(tuple(self.fields().items()))

    def replace(self, **fields: typing.Any) -> "Variant":
        """Returns a copy with some fields of the skeleton or of mixers changed.

        Raises:
          ValueError: for a value that is not allowed.
        """
        skeleton = {name: value for name, value in fields.items() if name in _SKELETON_FIELDS}
        own = {name: value for name, value in fields.items() if name not in _SKELETON_FIELDS}
        merged = FrozenDict({**self.mixer_fields, **own})
        return dataclasses.replace(self, **skeleton, mixer_fields=merged)

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return (self.dim, *self.later_dims)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return (self.depth, *self.later_depths)

    @property
    def stride(self) -> int:
        """Pixels per side of a token of the last stage; image sides must be multiples of it.

        A ResNet rounds up in later stages, so only its stem counts.
        """
        if self.skeleton == "resnet":
            return self.patch_size
        return int(self.patch_size * 2 ** len(self.later_dims))

    def unread(self) -> dict[str, str]:
        """Returns the fields that have no effect in this architecture, and why."""
        if self.skeleton == "resnet":
            names = (*NOT_RESNET, *mixers.mixer_fields())
            return dict.fromkeys(names, "on a ResNet, which has its own skeleton")
        reasons = {}
        for field in sorted(mixers.mixer_fields().keys() - self._mixer_class.field_types):
            reasons[field] = (
                f"on the token mixer of this model, {self.mixer}; it is a field of "
                f"{', '.join(mixers.mixers_with(field))}"
            )
        if (self.norm, self.norm_position) != ("affine", "post"):
            reasons["affine_init"] = "but with norm affine and norm_position post"
        if self.norm == "affine":
            reasons["norm_eps"] = "on norm affine"
        if not self.later_depths:
            reasons["downsample"] = "without further stages (later_depths)"
        return reasons

    @property
    def bound_to_grid(self) -> str:
        """Names the weights that depend on the grid size; "" if none do."""
        if self.skeleton == "resnet":
            return ""
        if self._mixer_class.bound_to_grid:
            return f"the token mixer's ({self.mixer})"
        return "the position embedding's" if self.position == "learned" else ""

    @property
    def not_a_multiple(self) -> str:
        """Error text for an image size that is not a multiple of the stride."""
        stages = f" times 2 for each of {len(self.later_dims)} later stages"
        return (
            f"is not a multiple of {self.stride}, the patch size"
            f"{stages if self.stride != self.patch_size else ''}."
        )

    def check_other_size(self, trained: int, image_size: int) -> None:
        """Checks that weights trained at one image size (pixels) fit another.

        Raises:
          ValueError: if they do not, or the model cannot take the size.
        """
        if self.bound_to_grid and image_size != trained:
            raise ValueError(
                f"image_size {image_size}: this model takes {trained} only, at which it was "
                f"trained, as {self.bound_to_grid} weights depend on the number of tokens."
            )
        self.grids(image_size)

    def grids(self, image_size: int) -> list[int]:
        """Returns the number of tokens per side of each stage, for a square image.

        Raises:
          ValueError: if the image size (pixels) is not a multiple of the stride, or the token
            mixer is made for another grid.
        """
        if image_size % self.stride:
            raise ValueError(f"image_size {image_size} {self.not_a_multiple}")
        grids = [math.ceil(image_size / (self.patch_size * 2**i)) for i in range(len(self.dims))]
        if self.skeleton == "metaformer":
            try:
                self.token_mixer().check_grid(grids[0])
            except ValueError as error:
                raise ValueError(
                    f"image_size {image_size} gives {grids[0]}x{grids[0]} tokens, and {error}, or "
                    "change image_size."
                ) from None
        return grids


_SKELETON_FIELDS = tuple(
    field.name for field in dataclasses.fields(Variant) if field.name != "mixer_fields"
)


def field_types() -> dict[str, type]:
    """Returns the type of every field of a model, in order; `tuple` for one of integers.

    First those of the skeleton, then those of all registered mixers.
    """
    hints = typing.get_type_hints(Variant)
    skeleton = {name: typing.get_origin(hints[name]) or hints[name] for name in _SKELETON_FIELDS}
    return skeleton | mixers.mixer_fields()
