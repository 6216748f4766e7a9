"""The devices that a plan is for: those that are there, or others that were stated."""

import os
import re
import typing

import jax
from jax.experimental import topologies

# GiB of memory of a TPU's device, by jax's `device_kind` (makers' data sheets). Of the devices
# that are there jax knows more exactly what a program may have of it.
_TPU_GIB = {
    "TPU v2": 8,
    "TPU v3": 16,
    "TPU v4": 32,
    "TPU v5 lite": 16,
    "TPU v5e": 16,
    "TPU v5p": 95,
    "TPU v5": 95,
    "TPU v6 lite": 32,
}


class Devices(typing.NamedTuple):
    """Devices to compile for.

    Attributes:
      devices: of jax.
      stated: why nothing can be run on them; "" for devices that are there.
    """

    devices: list[jax.Device]
    stated: str


def find(spec: str | None) -> Devices:
    """Finds the devices of a plan; to be called before jax does anything.

    Args:
      spec: None for all that are there; a number, "8"; or a TPU slice by type and shape, "v5e:2x4",
        which is compiled for without one, where libtpu is installed.

    Raises:
      ValueError: neither a number nor a slice that the installed libtpu knows.
    """
    if spec is None:
        return Devices(jax.devices(), "")
    if re.fullmatch(r"[1-9]\d*", spec):
        return _count(int(spec))
    if re.fullmatch(r"v\w+:\d+(x\d+)+", spec):
        return _slice(spec)
    raise ValueError(
        f"--devices must be a number, or a TPU slice such as v5e:2x4, v4:2x2x1; got {spec!r}."
    )


def _count(count: int) -> Devices:
    jax.config.update("jax_num_cpu_devices", count)  # of the CPU alone: others are as many as are
    there = jax.devices()
    if there[0].platform != "cpu" and count <= len(there):
        return Devices(there[:count], "")
    devices = jax.devices("cpu")[:count]
    if there[0].platform == "cpu" and count == 1:
        return Devices(devices, "")
    reason = f"the {count} devices are parts of one CPU"
    if there[0].platform != "cpu":
        reason += (
            f", since only {len(there)} x {there[0].device_kind} are there; another compiler "
            "shares out the memory of gradients and activations otherwise"
        )
    return Devices(devices, reason)


def _slice(spec: str) -> Devices:
    # Else libtpu asks the cloud's metadata for the machine that this is not.
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
    return Devices(list(devices), f"no {spec} is here, it is compiled for alone")


def memory_limit(devices: Devices) -> int | None:
    """Returns the bytes that a program may have on one device, where that is known."""
    device = devices.devices[0]
    if devices.stated:
        gib = _TPU_GIB.get(device.device_kind)
        return gib * 2**30 if gib else None
    if device.platform == "cpu" and hasattr(os, "sysconf"):  # the devices share its memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(devices.devices)
    return (device.memory_stats() or {}).get("bytes_limit")
