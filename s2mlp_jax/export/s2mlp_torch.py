"""S²-MLP (arXiv 2106.07477) in PyTorch: one file that needs torch alone.

  from s2mlp import load
  model = load("FOLDER")  # with model.json and model.pt; in evaluation mode
  logits = model(images)  # (b, c, h, w), float32, normalised -> (b, classes)

Inside tokens are (b, h, w, c), so that every linear layer reads rows of memory.
"""

import json
import pathlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# name -> (rows, columns) by which the content moves.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "right": (0, 1),
    "left": (0, -1),
    "down": (1, 0),
    "up": (-1, 0),
    "up-left": (-1, -1),
    "up-right": (-1, 1),
    "down-left": (1, -1),
    "down-right": (1, 1),
    "stay": (0, 0),
}
PATTERN_A = ("right", "left", "down", "up")  # the paper's
BORDERS = ("keep", "zero", "circular")


def slide(x: Tensor, axis: int, step: int, border: str) -> Tensor:
    """Moves x (b, h, w, c) along an axis by a step of 1 or -1 tokens."""
    last = x.shape[axis] - 1
    # Where a token comes in; around the corner it is the one that leaves on the other side.
    edge = 0 if step > 0 else last
    new = x.narrow(axis, last - edge if border == "circular" else edge, 1)
    if border == "zero":
        new = torch.zeros_like(new)
    if step > 0:
        return torch.cat([new, x.narrow(axis, 0, last)], dim=axis)
    return torch.cat([x.narrow(axis, 1, last), new], dim=axis)


def move(x: Tensor, rows: int, columns: int, border: str) -> Tensor:
    """Moves x (b, h, w, c) by at most one token an axis."""
    moved = x
    if rows:
        moved = slide(moved, 1, rows, border)
    if columns:
        moved = slide(moved, 2, columns, border)
    if border == "keep" and rows and columns:
        # Along the two edges where tokens come in their sources lie outside, but for `slide`.
        inside = torch.ones(1, *x.shape[1:3], 1, dtype=torch.bool, device=x.device)
        inside[:, 0 if rows > 0 else -1] = False
        inside[:, :, 0 if columns > 0 else -1] = False
        moved = torch.where(inside, moved, x)
    return moved


def spatial_shift(
    x: Tensor,
    directions: Sequence[str] = PATTERN_A,
    border: str = "keep",
    fraction: float = 1.0,
) -> Tensor:
    """Cuts the channels into groups, and moves each by one token in its own direction.

    Out of place: written into its own input, it would read what it has just overwritten.

    Args:
      x: tokens (b, h, w, c); rows count from the top, columns from the left.
      directions: one a group, keys of `DIRECTIONS`. Groups differ by one channel at the most,
        the larger ones first.
      border: what a token gets whose source lies outside the grid: "keep" its own value, "zero",
        or "circular", the token at the opposite edge.
      fraction: part of the channels that moves; the others stay, and come last.

    Returns:
      (b, h, w, c).
    """
    part = round(fraction * x.shape[-1])
    groups = x[..., :part].tensor_split(len(directions), dim=-1)
    moved = [move(g, *DIRECTIONS[d], border) for g, d in zip(groups, directions, strict=True)]
    return torch.cat([*moved, x[..., part:]], dim=-1)


class Affine(nn.Module):
    """weight * x + bias for each channel, or weight * x."""

    def __init__(self, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., c) to (..., c)."""
        if self.bias is None:
            return self.weight * x
        return torch.addcmul(self.bias, self.weight, x)


class DropPath(nn.Module):
    """In training drops x of each image with a probability, and scales it up where it stays."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, h, w, c) to (b, h, w, c)."""
        if not self.training or self.rate == 0.0:
            return x
        stays = x.new_empty(len(x), 1, 1, 1).bernoulli_(1.0 - self.rate)
        return x * stays / (1.0 - self.rate)


class SpatialShiftMLP(nn.Module):
    """The token mixer: linear, GELU, spatial shift, linear."""

    def __init__(
        self, dim: int, directions: Sequence[str], border: str, fraction: float = 1.0
    ) -> None:
        super().__init__()
        self.fc_in = nn.Linear(dim, dim)
        self.fc_out = nn.Linear(dim, dim)
        self.directions = tuple(directions)
        self.border = border
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        x = functional.gelu(self.fc_in(x))
        return self.fc_out(spatial_shift(x, self.directions, self.border, self.fraction))


class ChannelMLP(nn.Module):
    """Linear, GELU, linear: on every token alone."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc_in = nn.Linear(dim, hidden)
        self.fc_out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., c) to (..., c)."""
        return self.fc_out(functional.gelu(self.fc_in(x)))


class Skip(nn.Module):
    """x + scale(norm(layer(x))), as in the paper, or x + scale(layer(norm(x)))."""

    def __init__(
        self, layer: nn.Module, norm: nn.Module, scale: nn.Module, norm_first: bool, drop: float
    ) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.scale = scale
        self.norm_first = norm_first
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (b, h, w, c) to (b, h, w, c)."""
        y = self.layer(self.norm(x)) if self.norm_first else self.norm(self.layer(x))
        return x + self.drop_path(self.scale(y))


class S2MLP(nn.Module):
    """An image classifier.

    Args:
      num_classes: logits of an image.
      dim: channels of a token.
      depth: blocks.
      patch_size: pixels a side of a token.
      channels: of the images.
      expansion: hidden width of the channel MLPs over `dim`.
      shift: the direction of each group of channels, see `spatial_shift`.
      border: see `spatial_shift`.
      shift_fraction: part of the channels that the shift moves.
      norm: "layer_norm", or "affine", as in the paper's deep model.
      norm_position: in a block, "post" (the paper's) or "pre".
      norm_eps: of layer_norm.
      embed_norm: a norm after the patches' embedding.
      final_norm: a norm before pooling.
      layer_scale: a scale for each channel at the end of a branch.
      drop_path: in training, how often the last block's branches are dropped.
      drop_path_rule: "linear", from 0 in the first block on, or "constant".

    Raises:
      ValueError: a border, norm or direction that there is not.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        depth: int,
        patch_size: int = 16,
        channels: int = 3,
        expansion: int = 4,
        shift: Sequence[str] = PATTERN_A,
        border: str = "keep",
        shift_fraction: float = 1.0,
        norm: str = "layer_norm",
        norm_position: str = "post",
        norm_eps: float = 1e-5,
        embed_norm: bool = True,
        final_norm: bool = False,
        layer_scale: bool = False,
        drop_path: float = 0.1,
        drop_path_rule: str = "linear",
    ) -> None:
        super().__init__()
        for value, allowed in [
            (border, BORDERS),
            (norm, ("layer_norm", "affine")),
            (norm_position, ("post", "pre")),
            (drop_path_rule, ("linear", "constant")),
            *((direction, tuple(DIRECTIONS)) for direction in shift),
        ]:
            if value not in allowed:
                raise ValueError(f"{value!r} is none of {', '.join(allowed)}.")

        def new_norm(wanted: bool = True) -> nn.Module:
            if not wanted:
                return nn.Identity()
            return Affine(dim) if norm == "affine" else nn.LayerNorm(dim, eps=norm_eps)

        def skip(layer: nn.Module, drop: float) -> Skip:
            scale = Affine(dim, bias=False) if layer_scale else nn.Identity()
            return Skip(layer, new_norm(), scale, norm_position == "pre", drop)

        def block(number: int) -> nn.Module:
            part = number / max(depth - 1, 1) if drop_path_rule == "linear" else 1.0
            mixer = skip(SpatialShiftMLP(dim, shift, border, shift_fraction), part * drop_path)
            mlp = skip(ChannelMLP(dim, expansion * dim), part * drop_path)
            return nn.Sequential(OrderedDict(mixer=mixer, mlp=mlp))

        self.embed = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.embed_norm = new_norm(embed_norm)
        self.blocks = nn.Sequential(*(block(number) for number in range(depth)))
        self.final_norm = new_norm(final_norm)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (b, c, h, w), whose sides the patch divides, to logits."""
        patch = self.embed.kernel_size[0]
        if images.shape[-2] % patch or images.shape[-1] % patch:
            raise ValueError(f"{list(images.shape)}: sides must be multiples of {patch} pixels.")
        x = self.embed(images).permute(0, 2, 3, 1).contiguous()
        x = self.final_norm(self.blocks(self.embed_norm(x)))
        return self.head(x.mean(dim=(1, 2)))


def load(folder: str | pathlib.Path) -> S2MLP:
    """Returns the model of model.json, with the weights of model.pt, in evaluation mode."""
    folder = pathlib.Path(folder)
    arguments: dict[str, Any] = json.loads((folder / "model.json").read_text())
    model = S2MLP(**arguments)
    model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    return model.eval()
