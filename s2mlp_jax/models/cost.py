"""Parameters and multiply-accumulates, from the variant alone (section 3.4 of the paper).

Everything is counted that the model has: biases, norms and the head, which the paper's
tables leave out. Multiply-accumulates are those of the linear layers; the head runs once
per image, after pooling.
"""

import typing

from s2mlp_jax.models.variants import Variant, get_variant


def _embed_parameters(v: Variant, channels: int) -> int:
    return (channels * v.patch_size**2 + 1) * v.dim


def _block_parameters(v: Variant) -> int:
    return (2 * v.expansion + 2) * v.dim**2 + (3 + v.expansion) * v.dim


def variant_parameters(v: Variant, num_classes: int = 1000, channels: int = 3) -> int:
    """Counts every parameter of a model."""
    norms = 2 * v.dim * (1 + 2 * v.depth)
    head = (v.dim + 1) * num_classes
    return _embed_parameters(v, channels) + v.depth * _block_parameters(v) + norms + head


def paper_parameters(v: Variant) -> int:
    """Counts as the paper's tables do: neither head nor norms, three-channel images."""
    return _embed_parameters(v, 3) + v.depth * _block_parameters(v)


def variant_macs(
    v: Variant, image_size: int = 224, num_classes: int = 1000, channels: int = 3
) -> int:
    """Counts the multiply-accumulates of one image's forward pass.

    Raises:
      ValueError: if the patch does not divide the image size (pixels).
    """
    if image_size % v.patch_size:
        raise ValueError(
            f"image_size {image_size} is not a multiple of the patch size {v.patch_size}."
        )
    tokens = (image_size // v.patch_size) ** 2
    embed = channels * v.patch_size**2 * v.dim
    block = (2 * v.expansion + 2) * v.dim**2
    return tokens * (embed + v.depth * block) + v.dim * num_classes


def count_parameters(
    name: str, num_classes: int = 1000, channels: int = 3, **overrides: typing.Any
) -> int:
    """Counts the parameters of a named variant; `overrides` are fields of `Variant`.

    Raises:
      ValueError: unknown name or field.
    """
    return variant_parameters(get_variant(name, **overrides), num_classes, channels)


def count_macs(
    name: str,
    image_size: int = 224,
    num_classes: int = 1000,
    channels: int = 3,
    **overrides: typing.Any,
) -> int:
    """Counts the multiply-accumulates of a named variant for one square image.

    Raises:
      ValueError: unknown name or field, or a patch that does not divide the image.
    """
    return variant_macs(get_variant(name, **overrides), image_size, num_classes, channels)
