"""PyTorch's files from strangers: one sentence of our own, and nothing of theirs is run."""

import pathlib
import types
import typing

import numpy as np
import pytest
import safetensors.numpy

from s2mlp_jax.export.__main__ import main as export
from s2mlp_jax.export.torch_weights import to_torch
from s2mlp_jax.models import create_model, init
from s2mlp_jax.saved import weights_file

MODEL = ["--model=resmlp_12", "--model.depth=1", "--model.dim=8", "--num_classes=3"]


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    import jax

    net = create_model("resmlp_12", num_classes=3, depth=1, dim=8)
    return to_torch(net.variant, init(net, jax.random.key(0), 224))


def said_of(path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Imports a file; returns the one line of the error."""
    output = path.with_name("out.safetensors")
    assert export([f"--from-torch={path}", f"--output={output}", *MODEL]) == 2
    said = capsys.readouterr()
    assert not output.exists()
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err
    assert str(path) in said.err
    return said.err


@pytest.mark.parametrize("ending", weights_file.PYTORCH_ENDINGS)
def test_files_of_something_else(
    ending: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / f"x{ending}"
    for write in (
        lambda: path.write_bytes(b""),
        lambda: path.write_text("this is a text\n"),
        lambda: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda: torch.save(torch.nn.Linear(2, 2), path),  # a whole module
        lambda: torch.save({"a": print}, path),
    ):
        write()
        assert "is not a state dict of PyTorch, or it is damaged: a file that" in said_of(
            path, capsys
        )
    for value, message in (
        ([1], "holds no state dict, but one list"),
        ({"epoch": 3}, "there are no arrays at epoch"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is a tensor that numpy cannot hold"),
    ):
        torch.save(value, path)
        assert message in said_of(path, capsys)


def test_good_files(state: dict[str, np.ndarray], tmp_path: pathlib.Path) -> None:
    """Parameters too, which need a gradient, and float8."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.nn.Parameter(torch.from_numpy(x.copy())) for name, x in state.items()}
    torch.save(tensors, tmp_path / "x.pth")
    output = tmp_path / "out.safetensors"
    assert export([f"--from-torch={tmp_path / 'x.pth'}", f"--output={output}", *MODEL]) == 0
    torch.save({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "x.pth")
    assert weights_file.read_state_dict(tmp_path / "x.pth")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(
    value: float,
    state: dict[str, np.ndarray],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = {**state, "head.bias": np.array([1, value, 1], np.float32)}
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(bad, path)
    message = "The state dict: these weights have NaN or infinite numbers: head.bias."
    assert message in said_of(path, capsys)
    weights_file.write_state_dict(path, bad)  # and the writer is not blamed
    safetensors.numpy.save_file({**state, "head.bias": np.ones(3, np.int32)}, path)
    assert "are not floating-point numbers: head.bias (int32)" in said_of(path, capsys)


def test_other_types(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.ones(2, ml_dtypes.float8_e4m3fn)}, path)
    assert "type that is not read here, such as a (F8_E4M3)." in said_of(path, capsys)


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121", "2.5.0a0"])
def test_old_versions_of_pytorch_are_refused(
    version: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: typing.Any, **__: typing.Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setitem(
        __import__("sys").modules, "torch", types.SimpleNamespace(__version__=version, load=load)
    )
    (tmp_path / "x.bin").touch()
    with pytest.raises(ValueError, match=r"not read with PyTorch .*before 2\.6 .*CVE-2025-32434"):
        weights_file.read_state_dict(tmp_path / "x.bin")
