"""The wheel, installed where there are jax and flax alone, away from the checkout."""

import importlib.metadata
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

from tests.helpers import ROOT

PROGRAM = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
import s2mlp_jax, jax
model = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, depth=2, dim=16)
images = jax.numpy.ones((2, 32, 32, 3))
variables = s2mlp_jax.init(model, jax.random.key(0), image_size=32)
logits = model.apply(variables, images, train=False)
others = ("tensorflow", "ml_collections", "grain", "PIL", "sklearn", "tqdm", "tests")
print(json.dumps({
    "file": s2mlp_jax.__file__,
    "shape": logits.shape,
    "models": len(s2mlp_jax.list_models()),
    "others": [name for name in others if importlib.util.find_spec(name)],
}))
"""


def build(folder: pathlib.Path) -> pathlib.Path:
    """Builds the wheel of a copy of the checkout, which so gets no folder `build`."""
    source = folder / "source"
    shutil.copytree(
        ROOT / "s2mlp_jax", source / "s2mlp_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    for pattern in ("*.toml", "*.md", "*.txt", "LICENSE*"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", f"--wheel-dir={folder}", str(source)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def link_distributions(names: list[str], folder: pathlib.Path) -> None:
    """Links some installed distributions, and all that they require, into a folder."""
    left, seen = [Requirement(name) for name in names], set[str]()
    while left:
        wanted = left.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found = importlib.metadata.distribution(wanted.name)
        for requirement in map(Requirement, found.requires or ()):
            extras = [{"extra": extra} for extra in ("", *wanted.extras)]
            if not requirement.marker or any(map(requirement.marker.evaluate, extras)):
                left.append(requirement)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(pathlib.Path(str(found.locate_file(top))))


@pytest.mark.slow
def test_the_wheel_needs_jax_and_flax_alone(tmp_path: pathlib.Path) -> None:
    wheel = build(tmp_path)
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "s2mlp_jax").rglob("*.py")}
    texts = {"s2mlp_jax/py.typed", "s2mlp_jax/data/prepare/imagenet100.txt"}
    assert names == modules | texts

    packages = tmp_path / "packages"
    packages.mkdir()
    link_distributions(["jax", "flax"], packages)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, f"--target={packages}", str(wheel)], check=True)
    # Isolated (-I), and without the installed packages of this Python (-S).
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(packages)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert pathlib.Path(said.pop("file")).is_relative_to(packages)
    assert said.pop("models") > 10
    assert said == {"shape": [2, 3], "others": []}
