"""Devices: the layout of arrays over them, and the devices of a plan.

One mesh axis covers all devices. The batch is sharded along it; the state is replicated or sharded.
The same code serves one device, eight, and many hosts.
"""

import math
import os
import re
import typing

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from s2mlp_jax.train.data_sheets import data_sheet

# Arrays with fewer elements are replicated: gathering them would cost more in latency than it
# saves in memory.
_WHOLE_BELOW = 4096


class Layout(typing.NamedTuple):
    """How arrays are placed on the devices.

    Attributes:
      batch: sharding of a batch, along its first axis.
      replicated: sharding with a full copy on every device.
      shard_state: whether `state_sharding` shards the large arrays of the state.
    """

    mesh: Mesh
    batch: NamedSharding
    replicated: NamedSharding
    shard_state: bool = False

    @property
    def stacked_batch(self) -> NamedSharding:
        """Sharding of batches stacked along a new first axis."""
        return NamedSharding(self.mesh, PartitionSpec(None, *self.batch.spec))

    def state_sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """Returns the sharding of a parameter, or of an optimizer statistic of the same shape.

        A sharded array is split along its longest axis that the number of devices divides; among
        equally long axes, along the last one.
        """
        axes = [i for i, size in enumerate(shape) if size % self.mesh.size == 0]
        if not self.shard_state or math.prod(shape) < _WHOLE_BELOW or not axes:
            return self.replicated
        longest = max(axes, key=lambda i: (shape[i], i))
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, "data"))

    def gather(self, params: typing.Any) -> typing.Any:
        """Within jit, returns the full parameters to compute with; their gradients are sharded.

        Without this, XLA would send the activations instead, where they are smaller.
        """

        def gather_one(x: jax.Array) -> jax.Array:
            place, cut = jax.lax.with_sharding_constraint, self.state_sharding(x.shape)
            whole = jax.custom_vjp(lambda x: place(x, self.replicated))
            # A plain constraint's full gradient would be summed on every device, then sharded.
            whole.defvjp(
                lambda x: (place(x, self.replicated), None), lambda _, grad: (place(grad, cut),)
            )
            return whole(x)

        return jax.tree.map(gather_one, params) if self.shard_state else params

    def remat_options(self) -> dict[str, str]:
        """Returns the XLA options without which a CPU would not recompute anything.

        On a CPU, XLA removes the barriers around a recomputation before it merges equal
        computations, so it merges this one with the original. With the barriers kept, both stay.
        """
        if self.mesh.devices.flat[0].platform != "cpu":
            return {}
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}

    def constrain_state(self, tree: typing.Any) -> typing.Any:
        """Within jit, gives these arrays the sharding of the state."""
        return jax.tree.map(
            lambda x: jax.lax.with_sharding_constraint(x, self.state_sharding(x.shape)), tree
        )


def check_divides(field: str, size: int, devices: int) -> None:
    """Raises a ValueError with the nearest valid sizes, if the devices do not divide a batch."""
    if size % devices:
        below = size - size % devices
        nearest = ", ".join(str(b) for b in (below, below + devices) if b)
        raise ValueError(
            f"{field} {size} cannot be divided over {devices} devices. Nearest sizes: {nearest}."
        )


def make_layout(
    devices: typing.Sequence[jax.Device] | None = None, shard_state: bool = False
) -> Layout:
    """Creates a mesh with one axis, "data", over the devices; all devices by default."""
    devices = list(devices or jax.devices())
    # With make_mesh's default, an explicit axis, every operation would have to name shardings.
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
    if jax.process_count() == 1:  # same result, faster where a step takes milliseconds
        return jax.device_put(dict(batch), layout.batch)
    # This transfer is intended, but with several processes jax treats it as implicit.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(layout.batch, array)
            for name, array in batch.items()
        }


def replicate(layout: Layout, tree: typing.Any) -> typing.Any:
    """Puts a copy of every array on every device; the arrays are the same in all processes."""

    def put(x: typing.Any) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        return _put(x, layout.replicated)

    return jax.tree.map(put, tree)


def place_state(layout: Layout, tree: typing.Any) -> typing.Any:
    """Puts arrays, the same in all processes, on the devices with the sharding of the state."""
    return jax.tree.map(lambda x: _put(x, layout.state_sharding(x.shape)), tree)


def _put(x: typing.Any, sharding: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


class PlannedDevices(typing.NamedTuple):
    """Devices to plan a run for.

    Attributes:
      devices: the jax devices.
      absent: why nothing can run on them, only be compiled; "" if the devices are present.
    """

    devices: list[jax.Device]
    absent: str


def find_devices(spec: str | None) -> PlannedDevices:
    """Finds the devices of a plan; call it before any other use of jax.

    Args:
      spec: None for all present devices; a number, "8"; or a TPU slice by type and shape,
        "v5e:2x4". Compiling for a slice needs libtpu, but no TPU.

    Raises:
      ValueError: if it is neither a number nor a slice that the installed libtpu knows.
    """
    if spec is None:
        return PlannedDevices(jax.devices(), "")
    if re.fullmatch(r"[1-9]\d*", spec):
        return _count(int(spec))
    if re.fullmatch(r"v\w+:\d+(x\d+)+", spec):
        return _slice(spec)
    raise ValueError(
        f"--devices must be a number, or a TPU slice such as v5e:2x4, v4:2x2x1; got {spec!r}."
    )


def _count(count: int) -> PlannedDevices:
    jax.config.update("jax_num_cpu_devices", count)  # affects only the CPU
    there = jax.devices()
    if there[0].platform != "cpu" and count <= len(there):
        return PlannedDevices(there[:count], "")
    devices = jax.devices("cpu")[:count]
    if there[0].platform == "cpu" and count == 1:
        return PlannedDevices(devices, "")
    reason = f"the {count} devices are parts of one CPU"
    if there[0].platform != "cpu":
        reason += (
            f", since only {len(there)} x {there[0].device_kind} are there; another compiler "
            "shares out the memory of gradients and activations otherwise"
        )
    return PlannedDevices(devices, reason)


def _slice(spec: str) -> PlannedDevices:
    # Otherwise libtpu queries the cloud's metadata server for a TPU that is not here.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    jax.config.update("jax_platforms", "cpu")
    try:
        devices = topologies.get_topology_desc(spec, "tpu").devices
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--devices={spec}: {reason} Compiling for a TPU needs libtpu, here or on a TPU's "
            'machine: pip install "jax[tpu]". A number of devices needs nothing.'
        ) from error
    return PlannedDevices(list(devices), f"no {spec} is here: the step is only compiled for it")


def memory_limit(devices: PlannedDevices) -> int | None:
    """Returns the bytes that a program may use on one device, or None if unknown."""
    device = devices.devices[0]
    if devices.absent:
        sheet = data_sheet(device)
        return sheet.memory_gib * 2**30 if sheet and sheet.memory_gib else None
    return usable_memory(device, len(devices.devices))


def usable_memory(device: jax.Device, count: int) -> int | None:
    """Returns the bytes that a program may use on one of `count` alike devices, if known."""
    if device.platform == "cpu" and hasattr(os, "sysconf"):  # the devices share its memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // count
    return (device.memory_stats() or {}).get("bytes_limit")
