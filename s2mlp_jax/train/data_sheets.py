"""Figures of devices from their makers' data sheets."""

import typing

import jax


class DataSheet(typing.NamedTuple):
    """Figures of one device.

    Attributes:
      peak_flops: dense peak in `dtype` with float32 sums, floating-point operations per second; not
        the figure with sparsity.
      memory_gib: memory in GiB; None where it is not needed, since jax asks the device itself.
      dtype: bfloat16; float32 for a device that has no bfloat16 units.
    """

    peak_flops: float
    memory_gib: int | None = None
    dtype: str = "bfloat16"


# Matched against jax's `device_kind`. Sources: the pages of Cloud TPU's documentation about each
# version; NVIDIA's data sheets, and for RTX cards the appendices of the white papers on GA102, Ada,
# Blackwell and RTX Blackwell PRO. Where a sheet gives only the figure with sparsity, half of it.
_DATA_SHEETS = {
    # On TPU v2, v3 and 7x a device is one of a chip's two cores.
    "TPU v2": DataSheet(22.5e12, 8),
    "TPU v3": DataSheet(61.5e12, 16),
    "TPU v4": DataSheet(275e12, 32),
    "TPU v5 lite": DataSheet(197e12, 16),
    "TPU v5e": DataSheet(197e12, 16),
    "TPU v5p": DataSheet(459e12, 95),
    "TPU v5": DataSheet(459e12, 95),
    "TPU v6 lite": DataSheet(918e12, 32),
    "TPU v6e": DataSheet(918e12, 32),
    "TPU7x": DataSheet(1153.5e12, 96),  # Ironwood
    "NVIDIA A100": DataSheet(312e12),
    "NVIDIA A10G": DataSheet(70e12),
    "NVIDIA H100 PCIe": DataSheet(756e12),
    "NVIDIA H100 NVL": DataSheet(835e12),
    "NVIDIA H100": DataSheet(989e12),
    "NVIDIA H200": DataSheet(989e12),
    "NVIDIA B200": DataSheet(2250e12),
    "NVIDIA GB200": DataSheet(2500e12),
    "NVIDIA B300": DataSheet(2250e12),
    "NVIDIA GB300": DataSheet(2500e12),
    "NVIDIA L4": DataSheet(121e12),
    "NVIDIA L40": DataSheet(181e12),
    "NVIDIA L40S": DataSheet(362e12),
    "NVIDIA RTX PRO 6000 Blackwell": DataSheet(503.8e12),
    "NVIDIA RTX PRO 6000 Blackwell Max-Q": DataSheet(438.9e12),
    "NVIDIA GeForce RTX 3090": DataSheet(71e12),
    "NVIDIA GeForce RTX 4090": DataSheet(165.2e12),
    "NVIDIA GeForce RTX 5090": DataSheet(209.5e12),
    "Tesla T4": DataSheet(8.1e12, dtype="float32"),
    "Tesla V100-PCIE": DataSheet(14e12, dtype="float32"),
    "Tesla V100": DataSheet(15.7e12, dtype="float32"),
}


def data_sheet(device: jax.Device) -> DataSheet | None:
    """Returns the figures of a device, or None if they are not known."""
    kind = device.device_kind
    # "... Ti", "... D" and "... Laptop GPU" are other cards than the GeForce without it.
    kinds = [k for k in _DATA_SHEETS if kind == k or ("GeForce" not in k and kind.startswith(k))]
    return _DATA_SHEETS[max(kinds, key=len)] if kinds else None
