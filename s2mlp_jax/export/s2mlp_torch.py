"""S²-MLP (arXiv 2106.07477) in PyTorch: one file that needs only torch.

  from s2mlp import load
  model = load("FOLDER")  # with model.json and model.pt; in evaluation mode
  logits = model(images)  # (b, c, h, w), float32, normalised -> (b, classes)

Internally tokens are (b, h, w, c), so that every linear layer reads contiguous channels.
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
PATTERN_A = ("right", "left", "down", "up")  # the paper's pattern
BORDERS = ("keep", "zero", "circular")


def slide(x: Tensor, axis: int, step: int, border: str) -> Tensor:
    """Moves x (b, h, w, c) along an axis by a step of 1 or -1 tokens."""
    last = x.shape[axis] - 1
    # The edge where a token enters; with "circular" it is the one that leaves at the other edge.
    edge = 0 if step > 0 else last
    new = x.narrow(axis, last - edge if border == "circular" else edge, 1)
    if border == "zero":
        new = torch.zeros_like(new)
    if step > 0:
        return torch.cat([new, x.narrow(axis, 0, last)], dim=axis)
    return torch.cat([x.narrow(axis, 1, last), new], dim=axis)


def move(x: Tensor, rows: int, columns: int, border: str) -> Tensor:
    """Moves x (b, h, w, c) by at most one token per axis."""
    moved = x
    if rows:
        moved = slide(moved, 1, rows, border)
    if columns:
        moved = slide(moved, 2, columns, border)
    if border == "keep" and rows and columns:
        # At the two edges where tokens enter, the diagonal source lies outside the grid, but the
        # two slides copied a neighbour: keep the token's own value.
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
    """Splits the channels into groups and moves each group by one token in its direction.

    Out of place: an in-place version would read values that it has just overwritten.

    Args:
      x: tokens (b, h, w, c); rows count from the top, columns from the left.
      directions: one key of `DIRECTIONS` per group. Group sizes differ by at most one channel,
        with the larger groups first.
      border: value of a token whose source lies outside the grid: "keep", its own value; "zero";
        or "circular", the token at the opposite edge.
      fraction: fraction of the channels that move; the others come last and stay.

    Returns:
      (b, h, w, c).
    """
    part = round(fraction * x.shape[-1])
    groups = x[..., :part].tensor_split(len(directions), dim=-1)
    moved = [move(g, *DIRECTIONS[d], border) for g, d in zip(groups, directions, strict=True)]
    return torch.cat([*moved, x[..., part:]], dim=-1)


class Affine(nn.Module):
    """weight * x + bias per channel, or weight * x."""

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
    """In training, drops x of an image with a probability, and scales up the x that it keeps."""

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
    """Linear, GELU, linear, on each token separately."""

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
      num_classes: number of logits per image.
      dim: channels per token.
      depth: number of blocks.
      patch_size: side of a patch in pixels.
      channels: number of image channels.
      expansion: hidden width of the channel MLPs divided by `dim`.
      shift: the direction of each group of channels, see `spatial_shift`.
      border: see `spatial_shift`.
      shift_fraction: fraction of the channels that the shift moves.
      norm: "layer_norm", or "affine", as in the paper's deep model.
      norm_position: position of the norm in a block, "post" (the paper's) or "pre".
      norm_eps: epsilon of layer_norm.
      embed_norm: whether there is a norm after the patch embedding.
      final_norm: whether there is a norm before pooling.
      layer_scale: whether each branch ends with a scale per channel.
      drop_path: in training, probability of dropping the branches of the last block.
      drop_path_rule: "linear", from 0 in the first block, or "constant".

    Raises:
      ValueError: an unknown border, norm, norm position, drop path rule or direction.
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
                raise ValueError(f"{value!r} is not one of {', '.join(allowed)}.")

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
        """Maps normalised images (b, c, h, w), h and w multiples of the patch size, to logits."""
        patch = self.embed.kernel_size[0]
        if images.shape[-2] % patch or images.shape[-1] % patch:
            raise ValueError(f"{list(images.shape)}: sides must be multiples of {patch} pixels.")
        x = self.embed(images).permute(0, 2, 3, 1).contiguous()
        x = self.final_norm(self.blocks(self.embed_norm(x)))
        return self.head(x.mean(dim=(1, 2)))


def load(folder: str | pathlib.Path) -> S2MLP:
    """Returns the model of model.json, with the weights of model.pt, in evaluation mode."""
    folder = pathlib.Path(folder)
    arguments: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    model = S2MLP(**arguments)
    model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    return model.eval()
