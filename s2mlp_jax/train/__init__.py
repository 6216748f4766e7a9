"""One run: experiment, step, loop, log, devices and plan."""

from s2mlp_jax.train.loop import train_and_evaluate

__all__ = ["train_and_evaluate"]
