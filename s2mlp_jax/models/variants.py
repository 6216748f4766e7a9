"""Named variants: a table, each row citing the table of the paper that it comes from."""

import types
import typing

from s2mlp_jax.checks import FieldError, did_you_mean, shown
from s2mlp_jax.models.mixers import find_mixer
from s2mlp_jax.models.variant import Variant, field_types

# The skeletons of the relatives; sources and open questions: docs/fidelity.md.
_MIXER = Variant(  # MLP-Mixer, arXiv 2105.01601
    depth=8,
    dim=512,
    mixer="token_mlp",
    norm_position="pre",
    norm_eps=1e-6,
    embed_norm=False,
    final_norm=True,
    init="mixer",
)
_RESMLP = Variant(  # ResMLP, arXiv 2105.03404
    depth=12,
    dim=384,
    mixer="token_linear",
    norm="affine",
    norm_position="pre",
    layer_scale=0.1,
    embed_norm=False,
    final_norm=True,
    init="deit",
    drop_path_rule="constant",
)
_V2 = Variant(  # S²-MLPv2, arXiv 2108.01072
    depth=4,
    dim=192,
    later_depths=(14,),
    later_dims=(384,),
    expansion=3,
    patch_size=7,
    mixer="split_shift",
    norm_position="pre",
    embed_norm=False,
)
_VIP = Variant(  # Vision Permutator, arXiv 2106.12368
    depth=4,
    dim=192,
    later_depths=(14,),
    later_dims=(384,),
    expansion=3,
    patch_size=7,
    mixer="permute",
    mixer_fields={"segments": 32},
    norm_position="pre",
    embed_norm=False,
    final_norm=True,
    init="deit",
)
_AS_MLP = Variant(  # AS-MLP, arXiv 2107.08391
    depth=2,
    dim=96,
    later_depths=(2, 6, 2),
    later_dims=(192, 384, 768),
    patch_size=4,
    mixer="axial_shift",
    mixer_fields={"border": "zero"},
    norm="group_norm",
    norm_position="pre",
    final_norm=True,
    downsample="merge",
    init="as_mlp",
    drop_path=0.2,
)
_DEIT = Variant(  # DeiT without distillation, arXiv 2012.12877
    depth=12,
    dim=192,
    mixer="attention",
    norm_position="pre",
    norm_eps=1e-6,
    embed_norm=False,
    final_norm=True,
    pool="class_token",
    position="learned",
    init="deit",
)

_RESNET = Variant(  # ResNet, arXiv 1512.03385
    depth=3,
    dim=64,
    later_depths=(4, 6, 3),
    later_dims=(128, 256, 512),
    patch_size=4,
    skeleton="resnet",
    embed_norm=False,
    drop_path=0.0,
)


VARIANTS: dict[str, Variant] = {
    # Table 2: "wide" follows Mixer-B, "deep" follows ResMLP-36 and takes its affine.
    "s2mlp_wide": Variant(depth=12, dim=768),
    "s2mlp_deep": Variant(depth=36, dim=384, norm="affine"),
    # Ours, for small images: 16 tokens of 2x2 pixels, and 64 tokens of 4x4 pixels.
    "s2mlp_digits": Variant(depth=4, dim=64, patch_size=2, drop_path=0.0),
    "s2mlp_cifar": Variant(depth=8, dim=128, patch_size=4),
    # S²-MLPv2, Tables 1 and 5.
    "s2mlp_v2_small_7": _V2,
    "s2mlp_v2_medium_7": _V2.replace(depth=7, dim=256, later_depths=(17,), later_dims=(512,)),
    "s2mlp_v2_small_14": _V2.replace(
        depth=18, dim=384, later_depths=(), later_dims=(), patch_size=14
    ),
    # MLP-Mixer, Table 1.
    "mlp_mixer_s32": _MIXER.replace(patch_size=32),
    "mlp_mixer_s16": _MIXER,
    "mlp_mixer_b32": _MIXER.replace(depth=12, dim=768, patch_size=32),
    "mlp_mixer_b16": _MIXER.replace(depth=12, dim=768),
    "mlp_mixer_l16": _MIXER.replace(depth=24, dim=1024),
    # ResMLP, Table 1; the layer scale by depth as in its code.
    "resmlp_12": _RESMLP,
    "resmlp_24": _RESMLP.replace(depth=24, layer_scale=1e-5),
    "resmlp_36": _RESMLP.replace(depth=36, layer_scale=1e-6),
    # ViP, Table 1; Large/7 as in its code: the table's 9 + 27 blocks are not its 88M.
    "vip_small_14": _VIP.replace(
        depth=18, dim=384, later_depths=(), later_dims=(), patch_size=14, segments=16
    ),
    "vip_small_7": _VIP,
    "vip_medium_7": _VIP.replace(
        depth=7, dim=256, later_depths=(17,), later_dims=(512,), drop_path=0.2
    ),
    "vip_large_7": _VIP.replace(
        depth=8, dim=256, later_depths=(28,), later_dims=(512,), drop_path=0.3
    ),
    # AS-MLP, Table 1.
    "as_mlp_t": _AS_MLP,
    "as_mlp_s": _AS_MLP.replace(later_depths=(2, 18, 2), drop_path=0.3),
    "as_mlp_b": _AS_MLP.replace(
        dim=128, later_depths=(2, 18, 2), later_dims=(256, 512, 1024), drop_path=0.5
    ),
    # DeiT, Table 1: ViT with 64 channels a head.
    "deit_ti": _DEIT,
    "deit_s": _DEIT.replace(dim=384),
    "deit_b": _DEIT.replace(dim=768),
    # ResNet, Table 1.
    "resnet_50": _RESNET,
}


def list_models() -> list[str]:
    """Returns the names that `create_model` knows."""
    return list(VARIANTS)


def get_variant(name: str, **overrides: typing.Any) -> Variant:
    """Returns a named variant with some fields changed.

    Raises:
      ValueError: unknown name, unknown field, a value that is not allowed, or a change of a field
        that has no effect in this architecture.
    """
    if name not in VARIANTS:
        hint = did_you_mean(name, VARIANTS)
        raise ValueError(f"Unknown model {name!r}. Allowed are {', '.join(VARIANTS)}.{hint}")
    if overrides.get("mixer") == "bottleneck":  # what a ResNet was called up to version 0.2
        del overrides["mixer"]
        overrides["skeleton"] = "resnet"
    if isinstance(mixer := overrides.get("mixer", "shift"), str):
        find_mixer(mixer)  # before its fields, which would be unknown as well
    types_ = field_types()
    for field, value in overrides.items():
        if field not in types_:
            raise ValueError(f"A model has no field {field!r}. Its fields are {', '.join(types_)}.")
        _check_type(field, value, types_[field])
        if types_[field] is tuple:
            overrides[field] = tuple(value)
    variant = VARIANTS[name].replace(**overrides)
    _check_read(name, variant)
    return variant


def _check_type(field: str, value: typing.Any, kind: type) -> None:
    allowed: type | types.UnionType = kind
    if kind is float:
        allowed = int | float
    elif kind is tuple:
        allowed = tuple | list  # a list is what JSON makes of one
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise FieldError(
            f"{field} must be of type {kind.__name__}, got {shown(value)} of type "
            f"{type(value).__name__}."
        )


def _check_read(name: str, variant: Variant) -> None:
    """Raises a ValueError if a field was changed that has no effect in the variant."""
    for field, reason in variant.unread().items():
        if variant.field(field) != VARIANTS[name].field(field):
            raise FieldError(f"{field} has no effect {reason}.")
