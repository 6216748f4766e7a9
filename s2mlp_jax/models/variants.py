"""Named variants: a table, each row citing the table of the paper that it comes from."""

import dataclasses
import difflib
import typing

from s2mlp_jax.models.layers import NORMS, drop_path_rates
from s2mlp_jax.models.spatial_shift import check_border, group_sizes, parse_pattern


@dataclasses.dataclass(frozen=True)
class Variant:
    """An architecture. Every field can be overridden in `create_model` and in a config.

    What the paper leaves open is marked (open); `docs/fidelity.md` gives the reasons.

    Raises:
      ValueError: at construction, if a field's value is not allowed.
    """

    depth: int  # blocks, N in the paper
    dim: int  # channels, c
    expansion: int = 4  # hidden width of the channel MLP over dim, r
    patch_size: int = 16  # pixels, p
    shift: str = "a"  # Table 7: a..j, none, or directions joined by "+"
    border: str = "keep"  # Algorithm 1: keep; also zero, circular
    norm: str = "layer_norm"  # or affine (ResMLP's), as in the deep variant
    norm_eps: float = 1e-5  # (open) of layer_norm
    affine_init: float = 1e-6  # (open) initial scale of affine at the end of a branch
    drop_path: float = 0.1  # (open) DeiT's rate
    drop_path_rule: str = "linear"  # (open) linear in depth, or constant

    def __post_init__(self) -> None:
        for field in ("depth", "dim", "expansion", "patch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}.")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}.")
        if self.norm not in NORMS:
            raise ValueError(f"Unknown norm {self.norm!r}. Allowed are {', '.join(NORMS)}.")
        drop_path_rates(self.drop_path, self.depth, self.drop_path_rule)
        check_border(self.border)
        group_sizes(self.dim, len(parse_pattern(self.shift)))


VARIANTS: dict[str, Variant] = {
    # Table 2: "wide" follows Mixer-B, "deep" follows ResMLP-36 and takes its affine.
    "s2mlp_wide": Variant(depth=12, dim=768),
    "s2mlp_deep": Variant(depth=36, dim=384, norm="affine"),
    # Ours, for small images: 16 tokens of 2x2 pixels, and 64 tokens of 4x4 pixels.
    "s2mlp_digits": Variant(depth=4, dim=64, patch_size=2, drop_path=0.0),
    "s2mlp_cifar": Variant(depth=8, dim=128, patch_size=4),
}


def list_models() -> list[str]:
    """Returns the names that `create_model` knows."""
    return list(VARIANTS)


def field_types() -> dict[str, type]:
    """Returns the type of every field of `Variant`, in order."""
    return typing.get_type_hints(Variant)


def get_variant(name: str, **overrides: typing.Any) -> Variant:
    """Returns a named variant with some fields changed.

    Raises:
      ValueError: unknown name, unknown field, or a value that is not allowed.
    """
    if name not in VARIANTS:
        close = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown model {name!r}. Allowed are {', '.join(VARIANTS)}.{hint}")
    types = field_types()
    for field, value in overrides.items():
        if field not in types:
            raise ValueError(f"A model has no field {field!r}. Its fields are {', '.join(types)}.")
        allowed = (int, float) if types[field] is float else types[field]
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise ValueError(
                f"{field} must be of type {types[field].__name__}, got {value!r} "
                f"of type {type(value).__name__}."
            )
    return dataclasses.replace(VARIANTS[name], **overrides)
