"""What our weights are called in timm, and how they lie there: a table for each family of models.

Pure numpy. A family is told by the token mixer of a variant. timm's names are also those of the
authors' checkpoints of DeiT.
"""

import typing
from collections.abc import Callable, Iterator, Sequence

import numpy as np

if typing.TYPE_CHECKING:
    from s2mlp_jax.models.variant import Variant


class Free(typing.NamedTuple):
    """A side of an array that the variant leaves open: factor * (the value of name) + offset."""

    name: str
    factor: int = 1
    offset: int = 0


Shape = tuple[int | Free, ...]
Change = Callable[[np.ndarray], np.ndarray]


class Entry(typing.NamedTuple):
    """A weight here and there.

    Attributes:
      ours: its path in our variables, "params/head/kernel".
      torch: its name in timm's state dict, "head.weight".
      our_shape, torch_shape: ours and timm's.
      from_torch, to_torch: change an array of the one shape to one of the other.
    """

    ours: str
    torch: str
    our_shape: Shape
    torch_shape: Shape
    from_torch: Change
    to_torch: Change


CLASSES, CHANNELS, TOKENS = Free("classes"), Free("channels"), Free("tokens")


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _plain(ours: str, torch: str, shape: Shape, leading: int = 0) -> Entry:
    """An array that has `leading` more sides of 1 in PyTorch, fewer if that is negative."""
    there: Shape = (1,) * leading + shape[max(-leading, 0) :]

    def from_torch(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[leading:] if leading > 0 else (1,) * -leading + x.shape)

    def to_torch(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[-leading:] if leading < 0 else (1,) * leading + x.shape)

    return Entry(f"params/{ours}", torch, shape, there, from_torch, to_torch)


def _linear(ours: str, torch: str, inputs: int | Free, outputs: int | Free) -> list[Entry]:
    """A linear layer: PyTorch keeps (outputs, inputs). Over the tokens it is no different."""
    name = f"params/{ours}/kernel"
    kernel = Entry(
        name, f"{torch}.weight", (inputs, outputs), (outputs, inputs), np.transpose, np.transpose
    )
    return [kernel, _plain(f"{ours}/bias", f"{torch}.bias", (outputs,))]


def _patches(torch: str, patch: int, dim: int) -> list[Entry]:
    """The patch embedding: there a convolution (outputs, channels, rows, columns)."""

    def from_torch(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(-1, dim)  # (row, column, channel) as patches lie

    def to_torch(x: np.ndarray) -> np.ndarray:
        return x.reshape(patch, patch, -1, dim).transpose(3, 2, 0, 1)

    kernel = Entry(
        "params/embed/kernel",
        f"{torch}.weight",
        (Free("channels", factor=patch * patch), dim),
        (dim, CHANNELS, patch, patch),
        from_torch,
        to_torch,
    )
    return [kernel, _plain("embed/bias", f"{torch}.bias", (dim,))]


def _layer_norm(ours: str, torch: str, dim: int) -> list[Entry]:
    return [
        _plain(f"{ours}/scale", f"{torch}.weight", (dim,)),
        _plain(f"{ours}/bias", f"{torch}.bias", (dim,)),
    ]


def _affine(ours: str, torch: str, dim: int) -> list[Entry]:
    return [
        _plain(f"{ours}/scale", f"{torch}.alpha", (dim,), leading=2),
        _plain(f"{ours}/bias", f"{torch}.beta", (dim,), leading=2),
    ]


def _channel_mlp(ours: str, torch: str, variant: "Variant") -> list[Entry]:
    dim, hidden = variant.dim, variant.expansion * variant.dim
    return [
        *_linear(f"{ours}/mlp/fc_in", f"{torch}.fc1", dim, hidden),
        *_linear(f"{ours}/mlp/fc_out", f"{torch}.fc2", hidden, dim),
    ]


def _blocks(variant: "Variant") -> Iterator[tuple[str, str]]:
    """Yields (our name, timm's name) of the blocks."""
    for i in range(variant.depth):
        yield f"block_{i:02d}", f"blocks.{i}"


def _mlp_mixer(variant: "Variant") -> list[Entry]:
    dim, hidden = variant.dim, int(variant.token_expansion * variant.dim)
    entries = _patches("stem.proj", variant.patch_size, dim)
    for ours, torch in _blocks(variant):
        entries += [
            *_layer_norm(f"{ours}/mixer_norm", f"{torch}.norm1", dim),
            *_linear(f"{ours}/mixer/fc_in", f"{torch}.mlp_tokens.fc1", TOKENS, hidden),
            *_linear(f"{ours}/mixer/fc_out", f"{torch}.mlp_tokens.fc2", hidden, TOKENS),
            *_layer_norm(f"{ours}/mlp_norm", f"{torch}.norm2", dim),
            *_channel_mlp(ours, f"{torch}.mlp_channels", variant),
        ]
    return [
        *entries,
        *_layer_norm("final_norm", "norm", dim),
        *_linear("head", "head", dim, CLASSES),
    ]


def _resmlp(variant: "Variant") -> list[Entry]:
    dim = variant.dim
    entries = _patches("stem.proj", variant.patch_size, dim)
    for ours, torch in _blocks(variant):
        entries += [
            *_affine(f"{ours}/mixer_norm", f"{torch}.norm1", dim),
            *_linear(f"{ours}/mixer/fc", f"{torch}.linear_tokens", TOKENS, TOKENS),
            _plain(f"{ours}/mixer_scale/scale", f"{torch}.ls1", (dim,)),
            *_affine(f"{ours}/mlp_norm", f"{torch}.norm2", dim),
            *_channel_mlp(ours, f"{torch}.mlp_channels", variant),
            _plain(f"{ours}/mlp_scale/scale", f"{torch}.ls2", (dim,)),
        ]
    return [*entries, *_affine("final_norm", "norm", dim), *_linear("head", "head", dim, CLASSES)]


def _deit(variant: "Variant") -> list[Entry]:
    dim, positions = variant.dim, Free("tokens", offset=1)  # the class token has one too
    entries = [
        *_patches("patch_embed.proj", variant.patch_size, dim),
        _plain("class_token", "cls_token", (1, 1, 1, dim), leading=-1),
        _plain("position", "pos_embed", (1, 1, positions, dim), leading=-1),
    ]
    for ours, torch in _blocks(variant):
        entries += [
            *_layer_norm(f"{ours}/mixer_norm", f"{torch}.norm1", dim),
            *_linear(f"{ours}/mixer/qkv", f"{torch}.attn.qkv", dim, 3 * dim),
            *_linear(f"{ours}/mixer/fc_out", f"{torch}.attn.proj", dim, dim),
            *_layer_norm(f"{ours}/mlp_norm", f"{torch}.norm2", dim),
            *_channel_mlp(ours, f"{torch}.mlp", variant),
        ]
    return [
        *entries,
        *_layer_norm("final_norm", "norm", dim),
        *_linear("head", "head", dim, CLASSES),
    ]


class Family(typing.NamedTuple):
    """A model of timm's.

    Attributes:
      label: for messages.
      entries: makes the table of a variant.
      skeleton: the fields that a variant must have as timm has them, and their values there.
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

# The token mixer of a variant -> its family.
FAMILIES: dict[str, Family] = {
    "token_mlp": Family("MLP-Mixer", _mlp_mixer, {**_PRE_NORM, "layer_scale": 0.0}),
    "token_linear": Family("ResMLP", _resmlp, {**_PRE_NORM, "norm": "affine"}),
    "attention": Family(
        "DeiT",
        _deit,
        {**_PRE_NORM, "layer_scale": 0.0, "pool": "class_token", "position": "learned"},
    ),
}

# What ends the name of an array in a state dict that is no weight: a counter of batch norms.
IGNORED: Sequence[str] = ("num_batches_tracked",)


def table(variant: "Variant") -> list[Entry]:
    """Returns the table of a variant.

    Raises:
      ValueError: timm has no such family, or it differs from the variant in more than sizes.
    """
    if variant.mixer not in FAMILIES:
        allowed = ", ".join(f"{family.label} ({mixer})" for mixer, family in FAMILIES.items())
        raise ValueError(
            f"There is no PyTorch model to go with the token mixer {variant.mixer}. "
            f"Allowed are {allowed}."
        )
    family = FAMILIES[variant.mixer]
    other = [
        f"{field} is {getattr(variant, field)!r}, there {value!r}"
        for field, value in family.skeleton.items()
        if getattr(variant, field) != value
    ]
    if variant.mixer == "token_linear" and not variant.layer_scale:
        other.append("layer_scale is 0.0, there are scales")
    if other:
        raise ValueError(f"timm's {family.label} is another model: {'; '.join(other)}.")
    return family.entries(variant)
