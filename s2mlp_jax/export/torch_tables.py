"""Names of our weights in timm: one table per model family.

The token mixer of a variant determines its family. The authors' DeiT checkpoints and torchvision's
ResNet use the same names as timm.
"""

import typing
from collections.abc import Callable, Iterator, Sequence

from s2mlp_jax.export.torch_layouts import (
    CLASSES,
    TOKENS,
    Entry,
    Free,
    affine,
    batch_norm,
    convolution,
    layer_norm,
    linear,
    patches,
    plain,
)

if typing.TYPE_CHECKING:
    from s2mlp_jax.models.variant import Variant


def _channel_mlp(ours: str, torch: str, variant: "Variant") -> list[Entry]:
    dim, hidden = variant.dim, variant.expansion * variant.dim
    return [
        *linear(f"{ours}/mlp/fc_in", f"{torch}.fc1", dim, hidden),
        *linear(f"{ours}/mlp/fc_out", f"{torch}.fc2", hidden, dim),
    ]


def _blocks(variant: "Variant") -> Iterator[tuple[str, str]]:
    """Yields (our name, timm's name) for each block."""
    for i in range(variant.depth):
        yield f"block_{i:02d}", f"blocks.{i}"


def _mlp_mixer(variant: "Variant") -> list[Entry]:
    dim, hidden = variant.dim, int(variant.field("token_expansion") * variant.dim)
    entries = patches("stem.proj", variant.patch_size, dim)
    for ours, torch in _blocks(variant):
        entries += [
            *layer_norm(f"{ours}/mixer_norm", f"{torch}.norm1", dim),
            *linear(f"{ours}/mixer/fc_in", f"{torch}.mlp_tokens.fc1", TOKENS, hidden),
            *linear(f"{ours}/mixer/fc_out", f"{torch}.mlp_tokens.fc2", hidden, TOKENS),
            *layer_norm(f"{ours}/mlp_norm", f"{torch}.norm2", dim),
            *_channel_mlp(ours, f"{torch}.mlp_channels", variant),
        ]
    return [
        *entries,
        *layer_norm("final_norm", "norm", dim),
        *linear("head", "head", dim, CLASSES),
    ]


def _resmlp(variant: "Variant") -> list[Entry]:
    dim = variant.dim
    entries = patches("stem.proj", variant.patch_size, dim)
    for ours, torch in _blocks(variant):
        entries += [
            *affine(f"{ours}/mixer_norm", f"{torch}.norm1", dim),
            *linear(f"{ours}/mixer/fc", f"{torch}.linear_tokens", TOKENS, TOKENS),
            plain(f"{ours}/mixer_scale/scale", f"{torch}.ls1", (dim,)),
            *affine(f"{ours}/mlp_norm", f"{torch}.norm2", dim),
            *_channel_mlp(ours, f"{torch}.mlp_channels", variant),
            plain(f"{ours}/mlp_scale/scale", f"{torch}.ls2", (dim,)),
        ]
    return [*entries, *affine("final_norm", "norm", dim), *linear("head", "head", dim, CLASSES)]


def _deit(variant: "Variant") -> list[Entry]:
    dim, positions = variant.dim, Free("tokens", offset=1)  # the class token also has a position
    entries = [
        *patches("patch_embed.proj", variant.patch_size, dim),
        plain("class_token", "cls_token", (1, 1, 1, dim), leading=-1),
        plain("position", "pos_embed", (1, 1, positions, dim), leading=-1),
    ]
    for ours, torch in _blocks(variant):
        entries += [
            *layer_norm(f"{ours}/mixer_norm", f"{torch}.norm1", dim),
            *linear(f"{ours}/mixer/qkv", f"{torch}.attn.qkv", dim, 3 * dim),
            *linear(f"{ours}/mixer/fc_out", f"{torch}.attn.proj", dim, dim),
            *layer_norm(f"{ours}/mlp_norm", f"{torch}.norm2", dim),
            *_channel_mlp(ours, f"{torch}.mlp", variant),
        ]
    return [
        *entries,
        *layer_norm("final_norm", "norm", dim),
        *linear("head", "head", dim, CLASSES),
    ]


def _resnet(variant: "Variant") -> list[Entry]:
    def step(ours: str, norm: str, torch: tuple[str, str], size: int, *dims: typing.Any) -> None:
        """Adds a convolution and its norm."""
        entries.append(convolution(ours, torch[0], size, *dims))
        entries.extend(batch_norm(norm, torch[1], dims[1]))

    entries: list[Entry] = []
    step("conv_stem", "norm_stem", ("conv1", "bn1"), 7, Free("channels"), variant.dim)
    number, inputs = 0, variant.dim
    for stage, (depth, dim) in enumerate(zip(variant.depths, variant.dims, strict=True), 1):
        for i in range(depth):
            ours, torch, outputs = (
                f"block_{number:02d}",
                f"layer{stage}.{i}",
                variant.expansion * dim,
            )
            sizes = {1: (1, inputs, dim), 2: (3, dim, dim), 3: (1, dim, outputs)}
            for k, size in sizes.items():
                names = (f"{torch}.conv{k}", f"{torch}.bn{k}")
                step(f"{ours}/conv_{k}", f"{ours}/norm_{k}", names, *size)
            if inputs != outputs or (stage > 1 and i == 0):
                names = (f"{torch}.downsample.0", f"{torch}.downsample.1")
                step(f"{ours}/conv_skip", f"{ours}/norm_skip", names, 1, inputs, outputs)
            number, inputs = number + 1, outputs
    return [*entries, *linear("head", "fc", inputs, CLASSES)]


class Family(typing.NamedTuple):
    """A family of timm's models.

    Attributes:
      label: name for messages.
      entries: function that returns the table of a variant.
      skeleton: fields of a variant that must equal timm's, with timm's values.
    """

    label: str
    entries: Callable[["Variant"], list[Entry]]
    skeleton: dict[str, typing.Any]


_PRE_NORM: dict[str, typing.Any] = {
    "later_depths": (),
    "norm": "layer_norm",
    "norm_position": "pre",
    "embed_norm": False,
    "final_norm": True,
    "pool": "mean",
    "position": "none",
}

# Token mixer of a variant, or "resnet" -> family.
FAMILIES: dict[str, Family] = {
    "token_mlp": Family("MLP-Mixer", _mlp_mixer, {**_PRE_NORM, "layer_scale": 0.0}),
    "token_linear": Family("ResMLP", _resmlp, {**_PRE_NORM, "norm": "affine"}),
    "attention": Family(
        "DeiT",
        _deit,
        {**_PRE_NORM, "layer_scale": 0.0, "pool": "class_token", "position": "learned"},
    ),
    "resnet": Family("ResNet", _resnet, {"patch_size": 4, "expansion": 4}),
}

# Endings of names in a state dict that are not weights: a counter in batch norms.
IGNORED: Sequence[str] = ("num_batches_tracked",)


def table(variant: "Variant") -> list[Entry]:
    """Returns the table of a variant.

    Raises:
      ValueError: timm does not have the family, or the variant differs in more than sizes.
    """
    kind = "resnet" if variant.skeleton == "resnet" else variant.mixer
    if kind not in FAMILIES:
        allowed = ", ".join(f"{family.label} ({mixer})" for mixer, family in FAMILIES.items())
        raise ValueError(
            f"There is no PyTorch model to go with the token mixer {kind}. Allowed are {allowed}."
        )
    family = FAMILIES[kind]
    other = [
        f"{field} is {getattr(variant, field)!r}, there {value!r}"
        for field, value in family.skeleton.items()
        if getattr(variant, field) != value
    ]
    if kind == "token_linear" and not variant.layer_scale:
        other.append("layer_scale is 0.0, there are scales")
    if other:
        raise ValueError(f"timm's {family.label} is another model: {'; '.join(other)}.")
    return family.entries(variant)
