"""The peers' packages, imported; a file of tests that needs one skips where it is missing."""

import sys
import types
import warnings

import pytest

# Keeps what `_import_torchvision` declares.
_kept: list[object] = []


def require(package: str) -> types.ModuleType:
    """Imports "torch", "torchvision" or "timm", or skips the module that calls this at its top."""

    def find(name: str) -> types.ModuleType:
        reason = f"compares with {package}'s own code, and {name} is not installed"
        return pytest.importorskip(name, reason=reason)

    torch = find("torch")
    with warnings.catch_warnings():
        # Of what they import, or of a part of torchvision that does not load: see below.
        warnings.simplefilter("ignore")
        if package != "torch":  # timm imports it as well
            try:
                find("torchvision")
            except RuntimeError:
                _import_torchvision(torch)
        return find(package)


def _import_torchvision(torch: types.ModuleType) -> None:
    """Imports torchvision where its compiled part does not load.

    PyPI's wheel for Linux is for PyTorch with CUDA. Beside PyTorch for CPUs alone its operators
    are not there, and the import fails on those that it adds to. The transforms are Python, and
    need none of them: with the names declared the import succeeds.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    pytest.importorskip("torchvision")
