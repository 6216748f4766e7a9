"""The pictures: made of real images, saved, and looked into."""

import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from s2mlp_jax import visualize
from s2mlp_jax.config import load_config
from s2mlp_jax.data.randaugment import OPERATIONS
from tests.helpers import ROOT


def test_augment_draws_a_row_an_operation(tmp_path: pathlib.Path) -> None:
    config = load_config(str(ROOT / "configs/s2mlp_wide.py"), {"data.image_size": 32})
    figure = visualize.augment(config, visualize.load_images(""))
    names = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert names[2 : 2 + len(OPERATIONS)] == list(OPERATIONS)
    assert names[-1] == "the whole recipe"
    shown = {
        name: np.stack([ax.images[0].get_array() for ax in figure.axes[8 * i : 8 * i + 8]])
        for i, name in enumerate(names)
    }
    for name in OPERATIONS:
        assert (shown[name] != shown["evaluation"]).any(), name
    figure.savefig(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as page:
        assert page.width > 1000


def test_a_folder_without_images_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="no images") as error:
        visualize.main(["augment", "--output=x.png", f"--images={tmp_path}"])
    assert str(tmp_path) in str(error.value)
    assert "matplotlib.pyplot" not in sys.modules  # no window, no global state
