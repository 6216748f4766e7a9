"""The notebooks: every cell runs, in a kernel of its own, as it does for who opens them."""

import json
import os
import pathlib
import re

import pytest

from tests.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_the_five() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_spatial_shift",
        "02_train",
        "03_ablation",
        "04_imagenet_tpu",
        "05_use",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_executes(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    compiled = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).parent / path.stem
    for name, value in {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_NUMPY_RANK_PROMOTION": "allow",  # as a user has it
        "XLA_FLAGS": "",
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            if output.output_type == "stream":
                assert "Traceback" not in output.text
                assert "Warning" not in output.text, output.text
    pictures = [
        output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    expected = {"01": 4, "02": 4, "03": 2, "04": 0, "05": 2}
    assert len(pictures) == expected[path.stem[:2]]
    assert all(len(picture) > 5000 for picture in pictures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_badge_opens_this_notebook_and_the_first_cell_installs_and_checks(
    path: pathlib.Path,
) -> None:
    cells = json.loads(path.read_text())["cells"]
    first, setup = ("".join(cell["source"]) for cell in cells[:2])
    badge = re.search(r"\(https://colab.research.google.com/github/(\S+?)/blob/main/(\S+)\)", first)
    assert badge
    assert badge[2] == f"notebooks/{path.name}"
    assert f"https://github.com/{badge[1]}" in setup
    for part in (
        '"pip", "install"',
        "requirements.txt",
        "sys.version_info >= (3, 11)",
        "jax.devices()",
    ):
        assert part in setup
