"""Parameters and multiply-accumulates, from the variant alone (section 3.4 of the paper).

Everything is counted that the model has: biases, norms and the head, which the paper's tables
leave out. Multiply-accumulates are those of linear layers and convolutions; the head runs once
per image, after pooling. What attention multiplies besides, queries with keys and weights with
values, is counted apart.
"""

import dataclasses
import typing

from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import get_variant


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a model, or a part of it, for one image.

    Attributes:
      parameters: of all kinds that are trained.
      macs: multiply-accumulates of linear layers and convolutions.
      attention_macs: of attention's own products.
    """

    parameters: int = 0
    macs: int = 0
    attention_macs: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.attention_macs + other.attention_macs,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.parameters * times, self.macs * times, self.attention_macs * times)


def _linear(inputs: int, outputs: int, times: int, bias: bool = True) -> Cost:
    """A linear layer that runs so many times an image."""
    return Cost(inputs * outputs + bias * outputs, inputs * outputs * times)


def _norm(dim: int) -> Cost:
    return Cost(2 * dim)


def variant_cost(
    v: Variant, image_size: int = 224, num_classes: int = 1000, channels: int = 3
) -> Cost:
    """Counts a model for square images.

    Raises:
      ValueError: if the image size (pixels) is not a multiple of the patch size.
    """
    grids = v.grids(image_size)
    if v.mixer == "bottleneck":
        return _resnet(v, grids, num_classes, channels)
    total = _linear(channels * v.patch_size**2, v.dim, grids[0] ** 2)
    if v.embed_norm:
        total += _norm(v.dim)
    class_token = v.pool == "class_token"
    if class_token:
        total += Cost(v.dim)
    if v.position == "learned":
        total += Cost((grids[0] ** 2 + class_token) * v.dim)
    for stage, (depth, dim, grid) in enumerate(zip(v.depths, v.dims, grids, strict=True)):
        if stage:
            inputs, merge = 4 * v.dims[stage - 1], v.downsample == "merge"
            total += _linear(inputs, dim, grid**2, bias=not merge)
            if merge:
                total += _norm(inputs)
        total += _block(v, dim, grid, grid**2 + class_token) * depth
    if v.final_norm:
        total += _norm(v.dims[-1])
    return total + _linear(v.dims[-1], num_classes, 1)


def _block(v: Variant, dim: int, grid: int, tokens: int) -> Cost:
    hidden = v.expansion * dim
    mlp = _linear(dim, hidden, tokens) + _linear(hidden, dim, tokens)
    scales = Cost(2 * dim if v.layer_scale else 0)
    return _MIXERS[v.mixer](v, dim, tokens) + mlp + _norm(dim) * 2 + scales


def _shift(v: Variant, dim: int, tokens: int) -> Cost:
    return _linear(dim, dim, tokens) * 2


def _depthwise(v: Variant, dim: int, tokens: int) -> Cost:
    return _shift(v, dim, tokens) + Cost(9 * dim, 9 * dim * tokens)


def _token_mlp(v: Variant, dim: int, tokens: int) -> Cost:
    hidden = int(v.token_expansion * dim)
    return _linear(tokens, hidden, dim) + _linear(hidden, tokens, dim)


def _token_linear(v: Variant, dim: int, tokens: int) -> Cost:
    return _linear(tokens, tokens, dim)


def _fusion(v: Variant, dim: int, bias: bool) -> Cost:
    if v.fusion != "split_attention":
        return Cost()
    hidden, branches = dim // 4, len(v.branch_names)
    return _linear(dim, hidden, 1, bias) + _linear(hidden, branches * dim, 1, bias)


def _split_shift(v: Variant, dim: int, tokens: int) -> Cost:
    branches = _linear(dim, len(v.branch_names) * dim, tokens)
    return branches + _fusion(v, dim, bias=False) + _linear(dim, dim, tokens)


def _axial_shift(v: Variant, dim: int, tokens: int) -> Cost:
    return _linear(dim, dim, tokens) * 4 + _norm(dim) * 2


def _permute(v: Variant, dim: int, tokens: int) -> Cost:
    branches = _linear(dim, dim, tokens, bias=False) * len(v.branch_names)
    return branches + _fusion(v, dim, bias=True) + _linear(dim, dim, tokens)


def _attention(v: Variant, dim: int, tokens: int) -> Cost:
    products = Cost(attention_macs=2 * tokens**2 * dim)
    return _linear(dim, 3 * dim, tokens) + products + _linear(dim, dim, tokens)


_MIXERS: dict[str, typing.Callable[[Variant, int, int], Cost]] = {
    "shift": _shift,
    "depthwise": _depthwise,
    "token_mlp": _token_mlp,
    "token_linear": _token_linear,
    "split_shift": _split_shift,
    "axial_shift": _axial_shift,
    "permute": _permute,
    "attention": _attention,
}


def _resnet(v: Variant, grids: list[int], num_classes: int, channels: int) -> Cost:
    def convolution(inputs: int, outputs: int, size: int, side: int) -> Cost:
        """A convolution without bias, and its batch norm."""
        return _linear(size**2 * inputs, outputs, side**2, bias=False) + _norm(outputs)

    # The 7x7 stem has stride 2, and pooling halves again.
    stem = (7, 2 * grids[0]) if v.patch_size == 4 else (3, grids[0])
    total = convolution(channels, v.dim, *stem)
    inputs = v.dim
    for stage, (depth, dim, grid) in enumerate(zip(v.depths, v.dims, grids, strict=True)):
        for i in range(depth):
            # The first convolution of a stage still sees the grid of the stage before.
            before = grids[stage - 1] if stage and i == 0 else grid
            total += convolution(inputs, dim, 1, before)
            total += convolution(dim, dim, 3, grid)
            total += convolution(dim, v.expansion * dim, 1, grid)
            if inputs != v.expansion * dim or (stage and i == 0):  # the skip is projected
                total += convolution(inputs, v.expansion * dim, 1, grid)
            inputs = v.expansion * dim
    return total + _linear(inputs, num_classes, 1)


def paper_parameters(v: Variant) -> int:
    """Counts S²-MLP as its tables do: neither head nor norms, three-channel images."""
    embed = _linear(3 * v.patch_size**2, v.dim, 1)
    blocks = (_block(v, v.dim, 1, 1) + _norm(v.dim) * -2) * v.depth
    return (embed + blocks).parameters


def count_parameters(
    name: str,
    num_classes: int = 1000,
    channels: int = 3,
    image_size: int = 224,
    **overrides: typing.Any,
) -> int:
    """Counts the parameters of a named variant; `overrides` are fields of `Variant`.

    The image size (pixels) matters only for models whose weights depend on the number of tokens.

    Raises:
      ValueError: unknown name or field.
    """
    v = get_variant(name, **overrides)
    if not v.bound_to_grid:
        image_size = v.stride
    return variant_cost(v, image_size, num_classes, channels).parameters


def count_macs(
    name: str,
    image_size: int = 224,
    num_classes: int = 1000,
    channels: int = 3,
    **overrides: typing.Any,
) -> int:
    """Counts the multiply-accumulates of a named variant for one square image.

    Those of linear layers and convolutions; attention's own products are not among them
    (`cost.variant_cost` has both).

    Raises:
      ValueError: unknown name or field, or a patch that does not divide the image.
    """
    return variant_cost(get_variant(name, **overrides), image_size, num_classes, channels).macs
