"""Training of one run: experiment, step, loop, recorder, devices and plan."""

import typing

__all__ = ["train_and_evaluate"]

if typing.TYPE_CHECKING:
    from s2mlp_jax.train.loop import train_and_evaluate


def __getattr__(name: str) -> typing.Any:
    """Imports the loop only when it is used: the step alone needs no data set packages."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from s2mlp_jax.train import loop

    return loop.train_and_evaluate
