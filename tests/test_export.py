"""Files of weights, ours and PyTorch's, and the command that makes one of the other."""

import pathlib
import pickle
import subprocess
import sys
import types
import typing

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from s2mlp_jax.config import load_config
from s2mlp_jax.export import __main__ as export
from s2mlp_jax.export import torch_weights
from s2mlp_jax.saved import weights_file
from s2mlp_jax.saved.arrays import flatten
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.restore import restore_run
from tests.helpers import ROOT, TINY
from tests.test_parity import TIMM, read, timm_model
from tests.test_torch_weights import same

RESMLP = ["--model=resmlp_12", *(f"--model.{k}={v}" for k, v in TIMM["resmlp"][1].items())]
SIZES = ["--num_classes=3", "--image_size=8"]


@pytest.fixture
def timm_file(tmp_path: pathlib.Path) -> pathlib.Path:
    """timm's ResMLP, of the parity tests."""
    path = tmp_path / "timm.safetensors"
    safetensors.numpy.save_file(read("resmlp", "state"), path)
    return path


def test_a_file_says_its_model(timm_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    assert export.main([f"--from-torch={timm_file}", f"--output={ours}", *RESMLP, *SIZES]) == 0
    weights = weights_file.read_weights(ours)
    model, variables = timm_model("resmlp")
    assert weights.variant == model.variant
    assert (weights.name, weights.num_classes, weights.image_size) == ("resmlp_12", 3, 8)
    same(flatten(weights_file.load_variables(ours)), flatten(variables))
    assert "params/block_01/mixer_scale/scale" in safetensors.numpy.load_file(ours)
    assert export.main([f"--to-torch={ours}", f"--output={back}"]) == 0
    same(weights_file.read_state_dict(back), read("resmlp", "state"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "timm.safetensors",
        "ours.safetensors",
        "back.safetensors",
    }


def test_weights_of_half_the_precision(tmp_path: pathlib.Path) -> None:
    state = {name: x.astype(ml_dtypes.bfloat16) for name, x in read("deit", "state").items()}
    safetensors.numpy.save_file(state, tmp_path / "half.safetensors")
    loaded = weights_file.read_state_dict(tmp_path / "half.safetensors")
    model, _ = timm_model("deit")
    variables = torch_weights.from_torch(model.variant, loaded)
    expected = {name: x.astype(np.float32) for name, x in state.items()}
    same(torch_weights.to_torch(model.variant, variables), expected)


class Tensor:
    """As much of PyTorch's as is used."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def is_floating_point(self) -> bool:
        return self.value.dtype.kind == "f"

    def float(self) -> "Tensor":
        return Tensor(self.value.astype(np.float32))

    def detach(self) -> "Tensor":
        return self

    def numpy(self) -> np.ndarray:
        return self.value


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A stand-in for PyTorch, which the tests do without."""

    def load(path: pathlib.Path, map_location: str, weights_only: bool) -> typing.Any:
        assert weights_only
        return pickle.loads(path.read_bytes())

    def save(value: typing.Any, path: pathlib.Path) -> None:
        path.write_bytes(pickle.dumps(value))

    stand_in = types.SimpleNamespace(
        __version__="2.6.0", Tensor=Tensor, from_numpy=Tensor, load=load, save=save
    )
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    return stand_in


@pytest.mark.parametrize("nested", ["", "state_dict", "model"])
def test_pickled_checkpoints(
    torch: types.SimpleNamespace, nested: str, tmp_path: pathlib.Path
) -> None:
    state, path = read("resmlp", "state"), tmp_path / "timm.pth"
    weights_file.write_state_dict(path, state)
    if nested:
        tensors = {name: Tensor(x.astype(np.float64)) for name, x in state.items()}
        torch.save({nested: tensors, "epoch": 3}, path)
    same(weights_file.read_state_dict(path), state)


def test_pickles_of_something_else(torch: types.SimpleNamespace, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "other.pt"
    for value, message in [
        ([1], "no state dict, but one list"),
        ({"weights": {}, "epoch": 3}, "no arrays at weights, epoch"),
    ]:
        torch.save(value, path)
        with pytest.raises(ValueError, match=message):
            weights_file.read_state_dict(path)
    path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"other.pt is not a state dict of PyTorch, or it is damaged"
    ):
        weights_file.read_state_dict(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--from-torch=TIMM", "--output=OUT.safetensors", *RESMLP],
            "head.weight: 3x12 there, 1000x12 exp",
        ),
        (["--from-torch=TIMM", "--output=OUT.safetensors"], "--from-torch needs --model"),
        (
            ["--from-torch=TIMM", "--output=OUT.safetensors", "--model=resmlp"],
            "Unknown model 'resmlp'",
        ),
        (
            ["--from-torch=TIMM", "--output=OUT.safetensors", *RESMLP, "--model.deep=3"],
            "no field 'deep'",
        ),
        (
            ["--from-torch=TIMM", "--output=OUT.safetensors", *RESMLP, "--depth=3"],
            "Unknown arguments --depth=3",
        ),
        (["--from-torch=TIMM", "--output=OUT.pt", *RESMLP], "must end in .safetensors."),
        (
            ["--from-torch=NONE.pt", "--output=OUT.safetensors", *RESMLP],
            "There is no file NONE.pt.",
        ),
        (["--to-torch=TIMM", "--output=OUT.safetensors"], "does not say which model it is of"),
        (["--to-torch=TIMM", "--output=OUT.npz"], "must end in .safetensors, .pt, .pth, .bin."),
        (
            ["--to-torch=TIMM", "--output=OUT.safetensors", "--model=x"],
            "--model is for --from-torch",
        ),
        (
            ["--to-torch=TIMM", "--output=OUT.safetensors", "--checkpoint=best"],
            "--checkpoint and --weights choose weights of a run",
        ),
        (
            ["--to-torch=FOLDER", "--output=OUT.safetensors"],
            "is not the folder of a run or an exported model",
        ),
        (
            ["--from-torch=TIMM", "--output=FOLDER/a/b.safetensors", *RESMLP, *SIZES],
            "There is no folder",
        ),
    ],
)
def test_errors_of_the_command(
    arguments: list[str],
    message: str,
    timm_file: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"=TIMM": timm_file, "=OUT": tmp_path / "out", "=FOLDER": tmp_path}
    for word, place in places.items():
        arguments = [argument.replace(word, f"={place}") for argument in arguments]
    assert export.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert message in said
    assert {path.name for path in tmp_path.iterdir()} == {"timm.safetensors"}


@pytest.mark.parametrize(
    ("package", "ending", "command"),
    [
        ("safetensors", ".safetensors", "pip install safetensors"),
        ("torch", ".pt", "pip install torch"),
    ],
)
def test_a_package_that_is_missing(
    package: str,
    ending: str,
    command: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "safetensors.numpy")
    path = tmp_path / f"file{ending}"
    with pytest.raises(ValueError, match=f" needs {package}: {command}"):
        weights_file.write_state_dict(path, {})
    path.touch()
    with pytest.raises(ValueError, match=f" needs {package}: {command}"):
        weights_file.read_state_dict(path)


def test_what_reads_otherwise_is_not_left(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_file, "read_state_dict", lambda path: {"a": np.ones(3)})
    with pytest.raises(ValueError, match="not written as it should be: b, a differ"):
        weights_file.write_state_dict(
            tmp_path / "file.safetensors", {"a": np.ones((3, 1)), "b": np.ones(1)}
        )
    assert not list(tmp_path.iterdir())


def test_a_run_is_given_back(tmp_path: pathlib.Path) -> None:
    """The weights that it is judged by, which are here the averaged ones."""
    overrides = {"model.name": "mlp_mixer_s16", "model.patch_size": 2, "train.steps": 3}
    config = load_config(str(ROOT / "configs/s2mlp_digits.py"), {**TINY, **overrides})
    train_and_evaluate(config, tmp_path / "run")
    output = tmp_path / "timm.safetensors"
    assert export.main([f"--to-torch={tmp_path / 'run'}", f"--output={output}"]) == 0
    restored = restore_run(tmp_path / "run")
    got = torch_weights.from_torch(
        restored.run.model.variant, weights_file.read_state_dict(output), 10, image_size=8
    )
    assert restored.state.ema_params is not None
    same(flatten(got["params"]), flatten(restored.state.ema_params))


@pytest.mark.slow
def test_the_command(timm_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    start = [sys.executable, "-m", "s2mlp_jax.export"]
    done = subprocess.run(
        [*start, f"--from-torch={timm_file}", f"--output={ours}", *RESMLP, *SIZES],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"Wrote {ours}: 30 arrays, 3,331 numbers.\n"
    subprocess.run([*start, f"--to-torch={ours}", f"--output={back}"], check=True)
    same(weights_file.read_state_dict(back), read("resmlp", "state"))
    failed = subprocess.run([*start, f"--to-torch={back}", f"--output={ours}"], check=False)
    assert failed.returncode == 2
