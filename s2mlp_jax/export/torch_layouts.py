"""Layouts of our weights in PyTorch: the entry of a weight, and the entries of each layer type.

Each function takes a layer's name in our model, such as "block_00/mixer/fc_in", and in timm, such
as "blocks.0.fc1".
"""

import typing
from collections.abc import Callable

import numpy as np

from s2mlp_jax.saved.arrays import Free, Shape

Change = Callable[[np.ndarray], np.ndarray]


class Entry(typing.NamedTuple):
    """A weight in our model and in timm's.

    Attributes:
      ours: its path in our variables, "params/head/kernel".
      torch: its name in timm's state dict, "head.weight".
      our_shape, torch_shape: shapes of our array and of timm's.
      from_torch, to_torch: functions that convert an array to our layout, and to timm's.
    """

    ours: str
    torch: str
    our_shape: Shape
    torch_shape: Shape
    from_torch: Change
    to_torch: Change


CLASSES, CHANNELS, TOKENS = Free("classes"), Free("channels"), Free("tokens")


def plain(ours: str, torch: str, shape: Shape, leading: int = 0) -> Entry:
    """An array with `leading` more dimensions of size 1 in PyTorch, or fewer if negative."""
    there: Shape = (1,) * leading + shape[max(-leading, 0) :]

    def from_torch(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[leading:] if leading > 0 else (1,) * -leading + x.shape)

    def to_torch(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[-leading:] if leading < 0 else (1,) * leading + x.shape)

    return Entry(f"params/{ours}", torch, shape, there, from_torch, to_torch)


def linear(ours: str, torch: str, inputs: int | Free, outputs: int | Free) -> list[Entry]:
    """A linear layer over channels or tokens: (outputs, inputs) in PyTorch."""
    name = f"params/{ours}/kernel"
    kernel = Entry(
        name, f"{torch}.weight", (inputs, outputs), (outputs, inputs), np.transpose, np.transpose
    )
    return [kernel, plain(f"{ours}/bias", f"{torch}.bias", (outputs,))]


def patches(torch: str, patch: int, dim: int) -> list[Entry]:
    """The patch embedding: in PyTorch a convolution (outputs, channels, rows, columns)."""

    def from_torch(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 1, 0).reshape(-1, dim)  # (row, column, channel), as in a patch

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
    return [kernel, plain("embed/bias", f"{torch}.bias", (dim,))]


def layer_norm(ours: str, torch: str, dim: int) -> list[Entry]:
    """The scale and bias of a layer norm or a group norm."""
    return [
        plain(f"{ours}/scale", f"{torch}.weight", (dim,)),
        plain(f"{ours}/bias", f"{torch}.bias", (dim,)),
    ]


def affine(ours: str, torch: str, dim: int) -> list[Entry]:
    """ResMLP's affine; timm's has dimensions of size 1 for the images and tokens."""
    return [
        plain(f"{ours}/scale", f"{torch}.alpha", (dim,), leading=2),
        plain(f"{ours}/bias", f"{torch}.beta", (dim,), leading=2),
    ]


def convolution(ours: str, torch: str, size: int, inputs: int | Free, outputs: int) -> Entry:
    """A convolution without bias: (outputs, inputs, rows, columns) in PyTorch.

    Our kernel is (rows, columns, inputs, outputs).
    """
    return Entry(
        f"params/{ours}/kernel",
        f"{torch}.weight",
        (size, size, inputs, outputs),
        (outputs, inputs, size, size),
        lambda x: x.transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1),
    )


def batch_norm(ours: str, torch: str, dim: int) -> list[Entry]:
    """A batch norm; its running statistics are a separate collection in our variables."""
    statistics = [
        plain(f"{ours}/{here}", f"{torch}.running_{here}", (dim,)) for here in ("mean", "var")
    ]
    return [
        *layer_norm(ours, torch, dim),
        *(e._replace(ours=e.ours.replace("params/", "batch_stats/", 1)) for e in statistics),
    ]
