"""The images of a run in the devices' memory."""

import dataclasses
import functools

import jax

from s2mlp_jax.data import resident
from s2mlp_jax.data.options import DataOptions
from s2mlp_jax.data.split import Split
from s2mlp_jax.train.devices import Layout


@dataclasses.dataclass(frozen=True)
class DeviceData:
    """Loads both splits when they are first used, and keeps them."""

    train_split: Split
    eval_split: Split
    data: DataOptions
    eval_batch_size: int
    layout: Layout

    @functools.cached_property
    def training(self) -> dict[str, jax.Array]:
        """All training images, as `load_training` returns them, on every device."""
        whole = resident.load_training(self.train_split, self.data)
        return jax.device_put(whole, self.layout.replicated)

    @functools.cached_property
    def evaluation(self) -> dict[str, jax.Array]:
        """All evaluation batches, as `load_evaluation` returns them, cut over the devices."""
        whole = resident.load_evaluation(self.eval_split, self.data, self.eval_batch_size)
        return jax.device_put(whole, self.layout.stacked_batch)
