"""The notebooks: every cell runs, in a kernel of its own, as it does for who opens them."""

import json
import pathlib
import subprocess
import sys
import types

import pytest

from tests.helpers import ROOT
from tests.test_cli import environment

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Here the notebooks train smaller models for fewer epochs; at 22 steps per epoch, 4 of them pass
# step 60, at which one sends a signal.
SHORTER = {
    '"train.epochs": 10.0': '"train.epochs": 4.0, "model.depth": 1',
    '"--config.train.epochs=10.0"': '"--config.train.epochs=4.0", "--config.model.depth=1"',
    '"train.epochs": 6.0, "eval.every_epochs": 2.0': (
        '"train.epochs": 3.0, "eval.every_epochs": 1.0, "model.depth": 1'
    ),
    '"train.epochs": 20.0': '"train.epochs": 4.0',
}


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

    for name, value in environment(JAX_NUMPY_RANK_PROMOTION="allow").items():  # as a user has it
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for given, shorter in SHORTER.items():
            cell.source = cell.source.replace(given, shorter)
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": path.parent}})
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
def test_the_first_cells_say_how_to_open_it_install_and_check(path: pathlib.Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    first, setup = ("".join(cell["source"]) for cell in cells[:2])
    assert "**To open it:**" in first
    assert "git archive --prefix=s2mlp_jax/ --output=s2mlp_jax.zip HEAD" in first
    for part in (
        'pathlib.Path("s2mlp_jax.zip")',
        '"pip", "install"',
        "requirements.txt",
        "sys.version_info >= (3, 11)",
        "jax.devices()",
    ):
        assert part in setup


def test_on_colab_the_first_cell_unpacks_the_project_and_installs_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is made by the command that the notebooks give; pip is not run."""
    cell = "".join(json.loads(NOTEBOOKS[0].read_text())["cells"][1]["source"])
    archive = f"--output={tmp_path}/s2mlp_jax.zip"
    make = ["git", "archive", "--prefix=s2mlp_jax/", archive, "HEAD"]
    if subprocess.run(make, cwd=ROOT, check=False).returncode:
        pytest.skip("not a git checkout")
    installed: list[list[str]] = []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", lambda command, check: installed.append(command))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    exec(cell, {})
    assert pathlib.Path.cwd() == tmp_path / "s2mlp_jax"
    assert sys.path[0] == str(tmp_path / "s2mlp_jax")
    (command,) = installed
    assert command[1:4] == ["-m", "pip", "install"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(AssertionError, match="Upload the project"):
        exec(cell, {})
