"""Parameters and multiply-accumulates, from the variant alone (section 3.4 of the paper).

Everything is counted that the model has: biases, norms and the head, which the paper's tables
leave out. Multiply-accumulates are those of linear layers and convolutions; the head runs once
per image, after pooling. What attention multiplies besides, queries with keys and weights with
values, is counted apart.
"""

import typing

from s2mlp_jax.models.layer_cost import Cost, linear_cost, norm_cost
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import get_variant


def variant_cost(
    v: Variant, image_size: int = 224, num_classes: int = 1000, channels: int = 3
) -> Cost:
    """Counts a model for square images.

    Raises:
      ValueError: if the image size (pixels) is not a multiple of the patch size.
    """
    grids = v.grids(image_size)
    if v.skeleton == "resnet":
        return _resnet(v, grids, num_classes, channels)
    total = linear_cost(channels * v.patch_size**2, v.dim, grids[0] ** 2)
    if v.embed_norm:
        total += norm_cost(v.dim)
    class_token = v.pool == "class_token"
    if class_token:
        total += Cost(v.dim)
    if v.position == "learned":
        total += Cost((grids[0] ** 2 + class_token) * v.dim)
    for stage, (depth, dim, grid) in enumerate(zip(v.depths, v.dims, grids, strict=True)):
        if stage:
            inputs, merge = 4 * v.dims[stage - 1], v.downsample == "merge"
            total += linear_cost(inputs, dim, grid**2, bias=not merge)
            if merge:
                total += norm_cost(inputs)
        total += _block(v, stage, grid**2 + class_token) * depth
    if v.final_norm:
        total += norm_cost(v.dims[-1])
    return total + linear_cost(v.dims[-1], num_classes, 1)


def _block(v: Variant, stage: int, tokens: int) -> Cost:
    dim = v.dims[stage]
    hidden = v.expansion * dim
    mlp = linear_cost(dim, hidden, tokens) + linear_cost(hidden, dim, tokens)
    scales = Cost(2 * dim if v.layer_scale else 0)
    return v.token_mixer(stage).cost(dim, tokens) + mlp + norm_cost(dim) * 2 + scales


def _resnet(v: Variant, grids: list[int], num_classes: int, channels: int) -> Cost:
    def convolution(inputs: int, outputs: int, size: int, side: int) -> Cost:
        """A convolution without bias, and its batch norm."""
        return linear_cost(size**2 * inputs, outputs, side**2, bias=False) + norm_cost(outputs)

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
    return total + linear_cost(inputs, num_classes, 1)


def paper_parameters(v: Variant) -> int:
    """Counts S²-MLP's parameters as its tables do: without head and norms, for colour images."""
    embed = linear_cost(3 * v.patch_size**2, v.dim, 1)
    blocks = (_block(v, 0, 1) + norm_cost(v.dim) * -2) * v.depth
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
