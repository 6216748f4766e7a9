"""How a weight of ours lies in PyTorch: one entry of a table, and those of each kind of layer.

Each function takes a layer's name here, as "block_00/mixer/fc_in", and there, as "blocks.0.fc1".
"""

import typing
from collections.abc import Callable

import numpy as np

from s2mlp_jax.saved.arrays import Free, Shape

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


def plain(ours: str, torch: str, shape: Shape, leading: int = 0) -> Entry:
    """An array that has `leading` more sides of 1 in PyTorch, fewer if that is negative."""
    there: Shape = (1,) * leading + shape[max(-leading, 0) :]

    def from_torch(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[leading:] if leading > 0 else (1,) * -leading + x.shape)

    def to_torch(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[-leading:] if leading < 0 else (1,) * leading + x.shape)

    return Entry(f"params/{ours}", torch, shape, there, from_torch, to_torch)


def linear(ours: str, torch: str, inputs: int | Free, outputs: int | Free) -> list[Entry]:
    """A linear layer: PyTorch keeps (outputs, inputs). Over the tokens it is no different."""
    name = f"params/{ours}/kernel"
    kernel = Entry(
        name, f"{torch}.weight", (inputs, outputs), (outputs, inputs), np.transpose, np.transpose
    )
    return [kernel, plain(f"{ours}/bias", f"{torch}.bias", (outputs,))]


def patches(torch: str, patch: int, dim: int) -> list[Entry]:
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
    return [kernel, plain("embed/bias", f"{torch}.bias", (dim,))]


def layer_norm(ours: str, torch: str, dim: int) -> list[Entry]:
    """A layer norm's scale and bias; a group norm's are the same."""
    return [
        plain(f"{ours}/scale", f"{torch}.weight", (dim,)),
        plain(f"{ours}/bias", f"{torch}.bias", (dim,)),
    ]


def affine(ours: str, torch: str, dim: int) -> list[Entry]:
    """ResMLP's affine, which timm keeps with sides of 1 for the images and tokens."""
    return [
        plain(f"{ours}/scale", f"{torch}.alpha", (dim,), leading=2),
        plain(f"{ours}/bias", f"{torch}.beta", (dim,), leading=2),
    ]


def convolution(ours: str, torch: str, size: int, inputs: int | Free, outputs: int) -> Entry:
    """A convolution without bias: there (outputs, inputs, rows, columns), here the reverse."""
    return Entry(
        f"params/{ours}/kernel",
        f"{torch}.weight",
        (size, size, inputs, outputs),
        (outputs, inputs, size, size),
        lambda x: x.transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1),
    )


def batch_norm(ours: str, torch: str, dim: int) -> list[Entry]:
    """A batch norm, with the running statistics that are a collection of their own here."""
    statistics = [
        plain(f"{ours}/{here}", f"{torch}.running_{here}", (dim,)) for here in ("mean", "var")
    ]
    return [
        *layer_norm(ours, torch, dim),
        *(e._replace(ours=e.ours.replace("params/", "batch_stats/", 1)) for e in statistics),
    ]
