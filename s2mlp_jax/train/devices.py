"""Devices: one mesh axis over all of them, the batch cut along it, the state whole or cut too.

The same code serves one device, eight, and many hosts.
"""

import math
import typing

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Dense peak of one device in bfloat16 multiply-and-adds, floating-point operations per second
# (makers' data sheets; not the figures with sparsity). Matched against jax's `device_kind`. Of
# TPU v2 and v3 a device is one of a chip's two cores.
_PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
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
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
}


# An array of fewer elements stays whole on every device: gathering it would cost more in
# latency than it saves in memory.
_WHOLE_BELOW = 4096


class Layout(typing.NamedTuple):
    """Where arrays live.

    Attributes:
      batch: cut along its first axis.
      replicated: whole on every device.
      shard_state: whether `state_sharding` cuts the large arrays of the state.
    """

    mesh: Mesh
    batch: NamedSharding
    replicated: NamedSharding
    shard_state: bool = False

    def state_sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """Returns where a parameter, or a figure kept for each of its numbers, lives.

        Cut along its longest axis that the devices divide, if it is cut; the last one of several.
        """
        axes = [i for i, size in enumerate(shape) if size % self.mesh.size == 0]
        if not self.shard_state or math.prod(shape) < _WHOLE_BELOW or not axes:
            return self.replicated
        longest = max(axes, key=lambda i: (shape[i], i))
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, "data"))

    def gather(self, params: typing.Any) -> typing.Any:
        """Within jit, returns the parameters whole, to compute with; their gradients come cut.

        Left to itself XLA would rather send activations around, where they are smaller.
        """

        def gather_one(x: jax.Array) -> jax.Array:
            place, cut = jax.lax.with_sharding_constraint, self.state_sharding(x.shape)
            whole = jax.custom_vjp(lambda x: place(x, self.replicated))
            # The plain constraint's gradient would be summed whole on every device, then cut.
            whole.defvjp(
                lambda x: (place(x, self.replicated), None), lambda _, grad: (place(grad, cut),)
            )
            return whole(x)

        return jax.tree.map(gather_one, params) if self.shard_state else params

    def remat_options(self) -> dict[str, str]:
        """Returns XLA's options without which a CPU would not compute anything again.

        There XLA removes the barriers around what is to be computed again before it looks for
        equal computations, and then makes one of the two. With the barriers kept they stay two.
        """
        if self.mesh.devices.flat[0].platform != "cpu":
            return {}
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}

    def constrain_state(self, tree: typing.Any) -> typing.Any:
        """Within jit, says that these arrays live as the state does."""
        return jax.tree.map(
            lambda x: jax.lax.with_sharding_constraint(x, self.state_sharding(x.shape)), tree
        )


def start_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the processes of one run; to be called once, before jax does anything.

    Args:
      coordinator: None for a run of one process; "host:port" of process 0; or "auto" where the
        cluster (TPU pod, SLURM, Open MPI) tells jax everything.
      num_processes: how many there are, with "host:port" alone.
      process_id: which of them this is, from 0, with "host:port" alone.

    Raises:
      ValueError: if the three do not go together.
      RuntimeError: if the processes do not find each other. A run never goes on as several.
    """
    by_hand = coordinator not in (None, "auto")
    if any((value is not None) != by_hand for value in (num_processes, process_id)):
        raise ValueError(
            "--coordinator=host:port, --num_processes and --process_id go together; "
            "--coordinator=auto and a run of one process take neither of the last two."
        )
    if coordinator == "auto":
        jax.distributed.initialize()
    elif by_hand:
        jax.distributed.initialize(coordinator, num_processes, process_id)


def check_divides(field: str, size: int, devices: int) -> None:
    """Raises a ValueError that names the nearest sizes, if the devices do not divide a batch."""
    if size % devices:
        below = size - size % devices
        nearest = ", ".join(str(b) for b in (below, below + devices) if b)
        raise ValueError(
            f"{field} {size} cannot be divided over {devices} devices. Nearest sizes: {nearest}."
        )


def make_layout(
    devices: typing.Sequence[jax.Device] | None = None, shard_state: bool = False
) -> Layout:
    """Lays one axis, "data", over the devices, all of them by default."""
    devices = list(devices or jax.devices())
    # make_mesh would make the axis explicit, and then every operation has to name shardings.
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    batch, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    return Layout(mesh, batch, whole, shard_state)


def local_positions(layout: Layout, batch_size: int) -> np.ndarray:
    """Returns the positions of the global batch that this process's devices hold, in order."""
    everywhere = np.arange(batch_size)
    held = layout.batch.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([everywhere[index] for index in held]))


def shard_batch(layout: Layout, batch: typing.Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a global batch on its devices."""
    if jax.process_count() == 1:  # the same, and quicker where a step takes milliseconds
        return jax.device_put(dict(batch), layout.batch)
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
        return _put(x, layout.replicated)

    return jax.tree.map(put, tree)


def place_state(layout: Layout, tree: typing.Any) -> typing.Any:
    """Puts arrays, the same in all processes, where the state lives: whole or cut."""
    return jax.tree.map(lambda x: _put(x, layout.state_sharding(x.shape)), tree)


def _put(x: typing.Any, sharding: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def peak_flops(device: jax.Device) -> float | None:
    """Returns the dense bfloat16 peak of a device (floating-point operations/s), if known."""
    kinds = [kind for kind in _PEAK_FLOPS if device.device_kind.startswith(kind)]
    return _PEAK_FLOPS[max(kinds, key=len)] if kinds else None
