"""The models of this repository in PyTorch, for comparison in `benchmarks.models`.

MLP-Mixer, ResMLP, DeiT and ResNet are timm's. S²-MLP, S²-MLPv2, ViP and AS-MLP, which timm does
not have, are written here in usual PyTorch style: images (b, 3, h, w) are embedded by a
convolution; then tokens are (b, h, w, c), so that a linear layer reads contiguous rows. The
shifts are out of place. Drop path is off. Parameters are named as in Flax, for `load`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from s2mlp_jax.models.mixers.axial_shift import chunk_offsets
from s2mlp_jax.models.mixers.split_shift import SPLIT_PATTERNS
from s2mlp_jax.models.variant import Variant

# Variant -> timm's name for it.
TIMM = {
    "mlp_mixer_s32": "mixer_s32_224",
    "mlp_mixer_s16": "mixer_s16_224",
    "mlp_mixer_b32": "mixer_b32_224",
    "mlp_mixer_b16": "mixer_b16_224",
    "mlp_mixer_l16": "mixer_l16_224",
    "resmlp_12": "resmlp_12_224",
    "resmlp_24": "resmlp_24_224",
    "resmlp_36": "resmlp_36_224",
    "deit_ti": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "resnet_50": "resnet50",
}


def shift(x: torch.Tensor, pattern: str) -> torch.Tensor:
    """The spatial shift of four channel groups, border "keep", out of place."""
    moved = []
    for part, direction in zip(x.chunk(4, dim=-1), pattern.split("+"), strict=True):
        axis = 2 if direction in ("left", "right") else 1
        last = x.shape[axis] - 1
        if direction in ("right", "down"):
            pieces = [part.narrow(axis, 0, 1), part.narrow(axis, 0, last)]
        else:
            pieces = [part.narrow(axis, 1, last), part.narrow(axis, last, 1)]
        moved.append(torch.cat(pieces, dim=axis))
    return torch.cat(moved, dim=-1)


def axial_shift(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """AS-MLP's shift along one axis, zeros at the border."""
    chunks = chunk_offsets(x.shape[-1], size, 1)
    length, moved = x.shape[axis], []
    parts = x.split([channels for channels, _ in chunks], dim=-1)
    for part, (_, offset) in zip(parts, chunks, strict=True):
        before, after = max(offset, 0), max(-offset, 0)
        # From the last axis to the first: channels, columns, rows.
        pads = [0, 0, before, after] if axis == 2 else [0, 0, 0, 0, before, after]
        moved.append(functional.pad(part, pads).narrow(axis, after, length))
    return torch.cat(moved, dim=-1)


class Affine(nn.Module):
    """ResMLP's affine layer in one operation, as in timm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (..., c) to (..., c)."""
        return torch.addcmul(self.bias, self.scale, x)


class GroupNorm(nn.Module):
    """GroupNorm with one group: statistics over rows, columns and channels of an image."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (b, h, w, c) to (b, h, w, c)."""
        x = functional.layer_norm(x, x.shape[1:], eps=self.eps)
        return torch.addcmul(self.bias, self.scale, x)


def norm(v: Variant, dim: int) -> nn.Module:
    """Returns the norm of a variant."""
    if v.norm == "affine":
        return Affine(dim)
    return GroupNorm(dim, v.norm_eps) if v.norm == "group_norm" else nn.LayerNorm(dim, v.norm_eps)


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int, bias: bool = True) -> None:
        super().__init__()
        self.fc_in = nn.Linear(dim, hidden, bias)
        self.fc_out = nn.Linear(hidden, out, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (..., dim) to (..., out)."""
        return self.fc_out(functional.gelu(self.fc_in(x)))


class SpatialShift(nn.Module):
    """S²-MLP's mixer with pattern (a)."""

    def __init__(self, v: Variant, dim: int, segments: int) -> None:
        super().__init__()
        self.fc_in, self.fc_out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        return self.fc_out(shift(functional.gelu(self.fc_in(x)), "right+left+down+up"))


class SplitAttention(nn.Module):
    """Weighted sum of three branches."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.fc_in = nn.Linear(dim, dim // 4, bias)
        self.fc_out = nn.Linear(dim // 4, 3 * dim, bias)

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Maps three tensors (b, h, w, c) to one."""
        mean = (a + b + c).mean((1, 2))
        weights = self.fc_out(functional.gelu(self.fc_in(mean)))
        weights = weights.view(len(a), 3, 1, 1, a.shape[-1]).softmax(dim=1)
        return a * weights[:, 0] + b * weights[:, 1] + c * weights[:, 2]


class SplitShift(nn.Module):
    """S²-MLPv2's mixer."""

    def __init__(self, v: Variant, dim: int, segments: int) -> None:
        super().__init__()
        self.fc_in, self.fc_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fusion = SplitAttention(dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        a, b, c = self.fc_in(x).chunk(3, dim=-1)
        first, second = SPLIT_PATTERNS["shift1"], SPLIT_PATTERNS["shift2"]
        return self.fc_out(self.fusion(shift(a, first), shift(b, second), c))


class Permute(nn.Module):
    """ViP's mixer."""

    def __init__(self, v: Variant, dim: int, segments: int) -> None:
        super().__init__()
        self.segments = segments
        self.fc_height = nn.Linear(dim, dim, bias=False)
        self.fc_width = nn.Linear(dim, dim, bias=False)
        self.fc_channel = nn.Linear(dim, dim, bias=False)
        self.fc_out = nn.Linear(dim, dim)
        self.fusion = SplitAttention(dim, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        b, h, w, c = x.shape
        cut = x.view(b, h, w, self.segments, c // self.segments)
        rows = self.fc_height(cut.transpose(1, 3).reshape(b, self.segments, w, -1))
        rows = rows.view(b, self.segments, w, h, -1).transpose(1, 3).reshape(b, h, w, c)
        columns = self.fc_width(cut.transpose(2, 3).reshape(b, h, self.segments, -1))
        columns = columns.view(b, h, self.segments, w, -1).transpose(2, 3).reshape(b, h, w, c)
        return self.fc_out(self.fusion(rows, columns, self.fc_channel(x)))


class AxialShift(nn.Module):
    """AS-MLP's mixer."""

    def __init__(self, v: Variant, dim: int, segments: int) -> None:
        super().__init__()
        self.size = v.field("shift_size")
        self.fc_in, self.fc_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.fc_width, self.fc_height = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_in, self.norm_out = norm(v, dim), norm(v, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        x = functional.gelu(self.norm_in(self.fc_in(x)))
        width = functional.gelu(self.fc_width(axial_shift(x, 2, self.size)))
        height = functional.gelu(self.fc_height(axial_shift(x, 1, self.size)))
        return self.fc_out(self.norm_out(width + height))


MIXERS: dict[str, Callable[[Variant, int, int], nn.Module]] = {
    "shift": SpatialShift,
    "split_shift": SplitShift,
    "permute": Permute,
    "axial_shift": AxialShift,
}


class Block(nn.Module):
    """The token mixer and the channel MLP, each with its norm and a skip connection."""

    def __init__(self, v: Variant, dim: int, segments: int) -> None:
        super().__init__()
        self.post = v.norm_position == "post"
        self.mixer = MIXERS[v.mixer](v, dim, segments)
        self.mlp = MLP(dim, v.expansion * dim, dim)
        self.mixer_norm, self.mlp_norm = norm(v, dim), norm(v, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        if self.post:
            x = x + self.mixer_norm(self.mixer(x))
            return x + self.mlp_norm(self.mlp(x))
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Downsample(nn.Module):
    """Concatenates 2x2 tokens, after an optional norm, and embeds them."""

    def __init__(self, v: Variant, inputs: int, outputs: int) -> None:
        super().__init__()
        merge = v.downsample == "merge"
        self.norm = norm(v, 4 * inputs) if merge else nn.Identity()
        self.linear = nn.Linear(4 * inputs, outputs, bias=not merge)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (b, h, w, c) to (b, h/2, w/2, c')."""
        b, h, w, c = x.shape
        x = x.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(b, h // 2, w // 2, 4 * c)
        return self.linear(self.norm(x))


class Model(nn.Module):
    """An image classifier with one of the token mixers above."""

    def __init__(self, v: Variant, num_classes: int = 1000) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, v.dim, v.patch_size, v.patch_size)
        self.embed_norm = norm(v, v.dim) if v.embed_norm else nn.Identity()
        layers: list[tuple[str, nn.Module]] = []
        number = 0
        for stage, (depth, dim) in enumerate(zip(v.depths, v.dims, strict=True)):
            if stage:
                layers.append((f"downsample_{stage}", Downsample(v, v.dims[stage - 1], dim)))
            for _ in range(depth):
                layers.append((f"block_{number:02d}", Block(v, dim, v.field("segments") >> stage)))
                number += 1
        self.blocks = nn.Sequential()
        for name, layer in layers:
            self.blocks.add_module(name, layer)
        self.final_norm = norm(v, v.dims[-1]) if v.final_norm else nn.Identity()
        self.head = nn.Linear(v.dims[-1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images (b, 3, h, w) to logits (b, classes)."""
        x = self.embed(images).permute(0, 2, 3, 1).contiguous()
        x = self.final_norm(self.blocks(self.embed_norm(x)))
        return self.head(x.mean((1, 2)))


def load(model: Model, params: Mapping[str, Any]) -> None:
    """Copies the parameters of the Flax model.

    Raises:
      KeyError, ValueError, RuntimeError: if the architectures differ.
    """
    renamed = {"scale": "weight", "kernel": "weight"}
    for name, parameter in model.named_parameters():
        *path, last = name.removeprefix("blocks.").split(".")
        if path[0].startswith("downsample"):  # downsample_1.norm is downsample_norm_1 in Flax
            stage = path[0].removeprefix("downsample_")
            path = [f"downsample_norm_{stage}" if path[1] == "norm" else path[0]]
        node = params
        for part in path:
            node = node[part]
        (value,) = (np.asarray(x) for key, x in node.items() if last in (key, renamed.get(key)))
        if path == ["embed"] and last == "weight":  # rows: pixels of a patch, row by row
            size = parameter.shape[-1]
            value = value.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)
        elif parameter.ndim == 2:
            value = value.T
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(value)))
