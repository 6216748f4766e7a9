"""Token mixers: one file each. Importing this package registers all of them.

A mixer of your own is a subclass of `TokenMixer` with `@register("name")`, in any file that is
imported before the model is made: docs/extending.md.
"""

from s2mlp_jax.models.layer_cost import Cost, linear_cost, norm_cost
from s2mlp_jax.models.mixers.base import (
    MIXERS,
    Context,
    TokenMixer,
    default_of,
    find_mixer,
    mixer_fields,
    mixers_with,
    register,
)

# The order here is that of messages and tables.
from s2mlp_jax.models.mixers.shift import SpatialShift  # isort: skip
from s2mlp_jax.models.mixers.depthwise import Depthwise  # isort: skip
from s2mlp_jax.models.mixers.token_mlp import TokenMLP  # isort: skip
from s2mlp_jax.models.mixers.token_linear import TokenLinear  # isort: skip
from s2mlp_jax.models.mixers.split_shift import SplitShift  # isort: skip
from s2mlp_jax.models.mixers.axial_shift import AxialShift  # isort: skip
from s2mlp_jax.models.mixers.permute import Permute  # isort: skip
from s2mlp_jax.models.mixers.attention import Attention  # isort: skip
from s2mlp_jax.models.mixers.pool import Pool  # isort: skip
from s2mlp_jax.models.mixers.random import Random  # isort: skip
from s2mlp_jax.models.mixers.identity import Identity  # isort: skip

__all__ = [
    "MIXERS",
    "Attention",
    "AxialShift",
    "Context",
    "Cost",
    "Depthwise",
    "Identity",
    "Permute",
    "Pool",
    "Random",
    "SpatialShift",
    "SplitShift",
    "TokenLinear",
    "TokenMLP",
    "TokenMixer",
    "default_of",
    "find_mixer",
    "linear_cost",
    "mixer_fields",
    "mixers_with",
    "norm_cost",
    "register",
]
