"""Pictures of models, data and predictions: `python -m s2mlp_jax.visualize --help`.

Each function takes plain arguments and returns a matplotlib `Figure`, made without pyplot. A
notebook displays it when it is the last expression of a cell (see `picture.py`). `save` writes
it to a file.
"""

from s2mlp_jax.visualize.augmentations import augment, load_images
from s2mlp_jax.visualize.block_features import features
from s2mlp_jax.visualize.canvas import save
from s2mlp_jax.visualize.cli import main
from s2mlp_jax.visualize.confusion_matrix import confusion
from s2mlp_jax.visualize.mistakes import errors
from s2mlp_jax.visualize.overview import overview
from s2mlp_jax.visualize.receptive_fields import receptive_field
from s2mlp_jax.visualize.shift_patterns import shift, shift_kernels

__all__ = [
    "augment",
    "confusion",
    "errors",
    "features",
    "load_images",
    "main",
    "overview",
    "receptive_field",
    "save",
    "shift",
    "shift_kernels",
]
