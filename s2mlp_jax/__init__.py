"""S²-MLP: Spatial-Shift MLP Architecture for Vision (arXiv 2106.07477) in JAX.

Importing this package needs jax and flax only.
"""

from s2mlp_jax.models import (
    count_macs,
    count_parameters,
    create_model,
    init,
    list_models,
    spatial_shift,
)

__version__ = "0.1.0"

__all__ = [
    "count_macs",
    "count_parameters",
    "create_model",
    "init",
    "list_models",
    "spatial_shift",
]
