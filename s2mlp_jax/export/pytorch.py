"""Exports an S²-MLP to PyTorch: its weights, and the one code file that uses them.

import sys; sys.path.insert(0, "FOLDER")
import s2mlp
model = s2mlp.load("FOLDER")
logits = model(images)  # (b, c, h, w), float32, normalised -> (b, classes)
"""

import importlib.util
import json
import pathlib
import shutil
import types
import typing
from collections.abc import Iterator

import numpy as np

from s2mlp_jax.export.common import require
from s2mlp_jax.models import Model, Variant
from s2mlp_jax.models.mixers import SpatialShift
from s2mlp_jax.models.spatial_shift import parse_pattern
from s2mlp_jax.saved.arrays import flatten

NEEDS: tuple[str, ...] = ("torch",)
CODE, WEIGHTS, ARGUMENTS = "s2mlp.py", "model.pt", "model.json"

# Fields of a variant that have the same name in the PyTorch model.
_SAME = (
    *("dim", "depth", "patch_size", "expansion", "border", "norm", "norm_position", "norm_eps"),
    *("embed_norm", "final_norm", "drop_path", "drop_path_rule"),
)


def write(
    folder: pathlib.Path, model: Model, variables: typing.Any, image_size: int, channels: int
) -> None:
    """Writes s2mlp.py, model.pt and model.json.

    Args:
      folder: existing folder.
      model: an S²-MLP; exported in float32.
      variables: `{"params": ...}` of numpy or jax arrays.
      image_size: not used; the model takes any size that is a multiple of its patch size.
      channels: number of image channels.

    Raises:
      ValueError: the model is not such an S²-MLP, or PyTorch is not installed.
    """
    arguments = _arguments(model.variant, model.num_classes, channels)
    torch = require("torch", WEIGHTS)
    state = dict(_state_dict(variables["params"], model.variant, channels))
    torch.save({name: torch.from_numpy(x) for name, x in state.items()}, folder / WEIGHTS)
    (folder / ARGUMENTS).write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(pathlib.Path(__file__).with_name("s2mlp_torch.py"), folder / CODE)


def run(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Maps normalised images (b, h, w, c), float32, to logits (b, classes) using only the files.

    Raises:
      ValueError: PyTorch is not installed.
    """
    torch = require("torch", WEIGHTS)
    model = load_code(folder).load(folder)
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        return model(torch.from_numpy(channels_first)).numpy()


def load_code(folder: pathlib.Path) -> types.ModuleType:
    """Imports the folder's s2mlp.py, which does not need to be on Python's path."""
    spec = importlib.util.spec_from_file_location("s2mlp", folder / CODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arguments(v: Variant, num_classes: int, channels: int) -> dict[str, typing.Any]:
    """Returns the constructor arguments of the PyTorch model.

    Raises:
      ValueError: the PyTorch code does not support the model.
    """
    mixer = v.mixer_as(SpatialShift)
    if mixer is None:
        other = f"mixer {v.mixer}" if v.skeleton == "metaformer" else f"skeleton {v.skeleton}"
        raise ValueError(
            f"In PyTorch there is S²-MLP alone (mixer shift), and this model has {other}. "
            "timm has MLP-Mixer, ResMLP, DeiT and ResNet: "
            "`python -m s2mlp_jax.export --to-torch` writes their weights."
        )
    missing = {
        "later_depths": bool(v.later_depths),
        "norm=group_norm": v.norm == "group_norm",
        "position=learned": v.position == "learned",
    }
    if any(missing.values()):
        said = ", ".join(name for name, there in missing.items() if there)
        raise ValueError(f"The S²-MLP in PyTorch has one stage and the paper's norms, not {said}.")
    return {
        "num_classes": num_classes,
        "channels": channels,
        "shift": list(parse_pattern(mixer.shift)),
        "shift_fraction": mixer.shift_fraction,
        "layer_scale": v.layer_scale > 0,
        **{name: v.field(name) for name in _SAME},
    }


def _state_dict(params: typing.Any, v: Variant, channels: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the PyTorch name and the array of each parameter."""
    for path, value in flatten(params).items():
        *parents, leaf = path.split("/")
        if leaf == "kernel" and parents == ["embed"]:  # rows are pixels of a patch, row by row
            value = value.reshape(v.patch_size, v.patch_size, channels, v.dim)
            value = value.transpose(3, 2, 0, 1)
        elif leaf == "kernel":
            value = value.T
        if parents[0].startswith("block_"):
            # block_03/mixer/fc_in is blocks.3.mixer.layer.fc_in, and mixer_norm is mixer.norm.
            number = int(parents[0].removeprefix("block_"))
            branch, _, part = parents[1].partition("_")
            parents = ["blocks", str(number), branch, part or "layer", *parents[2:]]
        name = ".".join([*parents, "bias" if leaf == "bias" else "weight"])
        yield name, np.array(value, np.float32, order="C")
