"""Devices: one mesh axis over all of them, the batch cut along it, the weights on each.

The same code serves one device, eight, and many hosts.
"""

import typing

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Dense peak of one device in bfloat16 multiply-and-adds, floating-point operations per second
# (makers' data sheets; not the figures with sparsity). Matched against jax's `device_kind`.
_PEAK_FLOPS = {
    "TPU v2": 45e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}


class Layout(typing.NamedTuple):
    """Where arrays live: `batch` is cut along its first axis, `replicated` is on every device."""

    mesh: Mesh
    batch: NamedSharding
    replicated: NamedSharding


def start_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the processes of one run; to be called once, before jax does anything.

    Args:
      coordinator: "host:port" of process 0, or "auto" where the cluster (TPU pod, SLURM, Open
        MPI) tells jax everything.
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      RuntimeError: if they do not find each other. A run never goes on as several single ones.
    """
    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, num_processes, process_id)


def make_layout(batch_size: int, devices: typing.Sequence[jax.Device] | None = None) -> Layout:
    """Lays one axis, "data", over the devices, all of them by default.

    Raises:
      ValueError: if the devices do not divide the batch.
    """
    devices = list(devices or jax.devices())
    if batch_size % len(devices):
        below = batch_size - batch_size % len(devices)
        raise ValueError(
            f"A batch of {batch_size} cannot be divided over {len(devices)} devices. "
            f"Nearest sizes: {', '.join(str(b) for b in (below, below + len(devices)) if b)}."
        )
    # make_mesh would make the axis explicit, and then every operation has to name shardings.
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return Layout(
        mesh, NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    )


def local_positions(layout: Layout, batch_size: int) -> np.ndarray:
    """Returns the positions of the global batch that this process's devices hold, in order."""
    everywhere = np.arange(batch_size)
    held = layout.batch.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([everywhere[index] for index in held]))


def shard_batch(layout: Layout, batch: typing.Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a global batch on its devices."""
    # This transfer is meant, but with several processes jax takes it for an accident.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(layout.batch, array)
            for name, array in batch.items()
        }


def replicate(layout: Layout, tree: typing.Any) -> typing.Any:
    """Puts a copy of every array, the same in all processes, on every device."""

    def put(x: typing.Any) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, layout.replicated, lambda index: x[index])

    return jax.tree.map(put, tree)


def peak_flops(device: jax.Device) -> float | None:
    """Returns the dense bfloat16 peak of a device (floating-point operations/s), if known."""
    kinds = [kind for kind in _PEAK_FLOPS if device.device_kind.startswith(kind)]
    return _PEAK_FLOPS[max(kinds, key=len)] if kinds else None
