"""S²-MLP: Spatial-Shift MLP Architecture for Vision (arXiv 2106.07477) in JAX.

Importing this package needs nothing else, and using its models jax and flax only. `load` needs
requirements.txt.
"""

import typing

__version__ = "0.2.0"

__all__ = [
    "count_macs",
    "count_parameters",
    "create_model",
    "init",
    "list_models",
    "load",
    "spatial_shift",
]

if typing.TYPE_CHECKING:
    from s2mlp_jax.models import (
        count_macs,
        count_parameters,
        create_model,
        init,
        list_models,
        spatial_shift,
    )
    from s2mlp_jax.saved.pretrained import load


def __getattr__(name: str) -> typing.Any:
    """Imports the models when one of the names is asked for: a report is made without jax."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "load":
        from s2mlp_jax.saved.pretrained import load

        return load
    from s2mlp_jax import models

    return getattr(models, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
