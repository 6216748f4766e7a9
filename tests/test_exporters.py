"""Files that others run, StableHLO, ONNX and PyTorch: each computes what the model does."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2mlp_jax
from s2mlp_jax.export import common, pytorch, stablehlo
from s2mlp_jax.export import onnx as onnx_exporter
from s2mlp_jax.models import Model
from s2mlp_jax.models.spatial_shift import BORDERS, parse_pattern
from tests.test_spatial_shift import GRIDS, oracle, random

DEEP = {"shift": "b", "border": "zero", "norm": "affine"}
PRE = {
    "shift": "right+stay+down-left",
    "border": "circular",
    "norm_position": "pre",
    "layer_scale": 0.1,
    "embed_norm": False,
    "final_norm": True,
}
SHIFTS: list[dict[str, typing.Any]] = [
    {},
    DEEP,
    PRE,
    {"shift": "none", "norm_eps": 0.1},
    {"shift_fraction": 0.5},
]
PYRAMID = {"depth": 1, "later_depths": (1,), "later_dims": (8,), "patch_size": 2}
VIP = {**PYRAMID, "dim": 8, "segments": 4}
RESNET = {"patch_size": 4, "depth": 1, "dim": 4, "later_depths": (1,), "later_dims": (8,)}


def tiny(
    name: str = "s2mlp_digits", dtype: typing.Any = jnp.float32, **fields: typing.Any
) -> tuple[Model, typing.Any]:
    """A model of 8x8 pixels and two channels, with weights of which none is 0 or 1."""
    fields = {"depth": 2, "dim": 10, "expansion": 2, "patch_size": 2, **fields}
    model = s2mlp_jax.create_model(name, 3, dtype, **fields)
    shapes = jax.eval_shape(lambda: s2mlp_jax.init(model, jax.random.key(0), 8, channels=2))
    draw = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda x: (
            draw.uniform(0.1, 0.5, x.shape).astype(np.float32)
            * (draw.choice(np.array([-1, 1], np.float32), x.shape) if x.ndim > 1 else 1)
        ),
        shapes,
    )


def images(count: int, size: int = 8) -> np.ndarray:
    return random(count, size, size, 2)


def apply(model: Model, variables: typing.Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(functools.partial(model.apply, train=False))(variables, images))


def round_trip(exporter: types.ModuleType, folder: pathlib.Path, **fields: typing.Any) -> None:
    model, variables = tiny(**fields)
    variables = jax.tree.map(jnp.asarray, variables)
    exporter.write(folder, model, variables, image_size=8, channels=2)
    expected = apply(model, variables, images(3))
    assert np.std(expected) > 0.01  # it depends on the image and the class
    for count in (1, 3):
        got = exporter.run(folder, images(count))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected[:count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [DEEP, PRE, {"name": "deit_ti", "head_dim": 5}, {"name": "resnet_50", **RESNET}],
)
def test_stablehlo(fields: dict[str, typing.Any], tmp_path: pathlib.Path) -> None:
    round_trip(stablehlo, tmp_path, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        DEEP,
        PRE,
        {"name": "s2mlp_v2_small_7", **PYRAMID},
        {"name": "as_mlp_t", **PYRAMID},
        {"name": "resnet_50", **RESNET},
    ],
)
def test_onnx(fields: dict[str, typing.Any], tmp_path: pathlib.Path) -> None:
    needed(onnx_exporter)
    round_trip(onnx_exporter, tmp_path, **fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"mixer": "depthwise"},
        {"mixer": "depthwise", "border": "zero"},
        {"mixer": "depthwise", "border": "circular"},
        {"shift_fraction": 0.5},
        {"mixer": "pool"},
        {"mixer": "random"},
        {"mixer": "identity"},
        {"name": "mlp_mixer_s16"},
        {"name": "resmlp_12"},
        {"name": "vip_small_7", **VIP},
        {"name": "deit_ti", "head_dim": 5},
        {"name": "as_mlp_t", **PYRAMID, "border": "reflect"},
    ],
)
def test_onnx_of_the_others(fields: dict[str, typing.Any], tmp_path: pathlib.Path) -> None:
    needed(onnx_exporter)
    round_trip(onnx_exporter, tmp_path, **fields)


@pytest.mark.parametrize("fields", SHIFTS)
def test_pytorch(fields: dict[str, typing.Any], tmp_path: pathlib.Path) -> None:
    needed(pytorch)
    round_trip(pytorch, tmp_path, **fields)
    model, variables = tiny(**fields)
    expected = apply(model, variables, images(2, 10))  # any size goes
    np.testing.assert_allclose(pytorch.run(tmp_path, images(2, 10)), expected, atol=1e-5)


@pytest.mark.parametrize("exporter", [stablehlo, onnx_exporter, pytorch])
def test_what_is_written_is_float32(exporter: types.ModuleType, tmp_path: pathlib.Path) -> None:
    needed(exporter)
    model, variables = tiny(dtype=jnp.bfloat16)
    exporter.write(tmp_path, model, variables, image_size=8, channels=2)
    expected = apply(tiny()[0], variables, images(2))
    np.testing.assert_allclose(exporter.run(tmp_path, images(2)), expected, rtol=1e-5, atol=1e-5)


def test_stablehlo_is_for_all_devices(tmp_path: pathlib.Path) -> None:
    stablehlo.write(tmp_path, *tiny(), image_size=8, channels=2)
    assert [path.name for path in tmp_path.iterdir()] == ["model.stablehlo"]
    exported = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(x) for x in (*exported.in_avals, *exported.out_avals)] == [
        "float32[b,8,8,2]",
        "float32[b,3]",
    ]


def test_onnx_says_its_input_and_output(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    needed(onnx_exporter)
    onnx_exporter.write(tmp_path, *tiny(), image_size=8, channels=2)
    assert not caplog.records  # jax2onnx has a lot to say
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    graph = sys.modules["onnx"].load(tmp_path / "model.onnx").graph

    def shapes(values: typing.Any) -> dict[str, list[typing.Any]]:
        return {
            x.name: [side.dim_param or side.dim_value for side in x.type.tensor_type.shape.dim]
            for x in values
        }

    assert shapes(graph.input) == {"images": ["b", 8, 8, 2]}
    assert shapes(graph.output) == {"logits": ["b", 3]}


# Run without the repository: what reads the file, with what it may not have imported.
ALONE = {
    "stablehlo": """
        import jax.export, numpy, pathlib, sys
        file = bytearray(pathlib.Path("model.stablehlo").read_bytes())
        logits = jax.export.deserialize(file).call(numpy.load("images.npy"))
        assert not {"s2mlp_jax", "flax"} & sys.modules.keys()
    """,
    "pytorch": """
        import sys
        sys.modules["numpy"] = None  # cannot be imported
        import json, torch, s2mlp
        images = torch.tensor(json.load(open("images.json")))
        with torch.inference_mode():
            logits = s2mlp.load(".")(images.permute(0, 3, 1, 2)).tolist()
        assert not {"s2mlp_jax", "jax", "flax"} & sys.modules.keys()
    """,
}


@pytest.mark.parametrize("name", list(ALONE))
def test_files_are_enough(name: str, tmp_path: pathlib.Path) -> None:
    exporter = {"stablehlo": stablehlo, "pytorch": pytorch}[name]
    needed(exporter)
    model, variables = tiny()
    exporter.write(tmp_path, model, variables, image_size=8, channels=2)
    np.save(tmp_path / "images.npy", images(3))
    (tmp_path / "images.json").write_text(json.dumps(images(3).tolist()))
    code = textwrap.dedent(ALONE[name])
    code += "\nimport json\nprint(json.dumps([[float(x) for x in row] for row in logits]))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = apply(model, variables, images(3))
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pattern", ["a", "b", "down-right+stay+left"])
def test_the_shift_in_pytorch(pattern: str, border: str) -> None:
    """Its values are the oracle's, its gradient is jax's, and its input stays as it was."""
    torch = needed(pytorch)
    from s2mlp_jax.export.s2mlp_torch import spatial_shift

    shift = functools.partial(s2mlp_jax.spatial_shift, pattern=pattern, border=border)
    pairs = [tuple(random(2, 2, *grid, 19)) for grid in GRIDS]  # the input, and what comes back
    gradients = jax.jit(lambda pairs: [jax.vjp(shift, x)[1](y)[0] for x, y in pairs])(pairs)
    for (x, y), gradient in zip(pairs, gradients, strict=True):
        tensor = torch.tensor(x, requires_grad=True)
        shifted = spatial_shift(tensor, parse_pattern(pattern), border)
        shifted.backward(torch.tensor(y))
        np.testing.assert_array_equal(shifted.detach().numpy(), oracle(x, pattern, border))
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=1e-6, atol=1e-6)
        shifted.detach().zero_()
        np.testing.assert_array_equal(tensor.detach().numpy(), x)


def test_pytorch_drops_paths_in_training(tmp_path: pathlib.Path) -> None:
    torch = needed(pytorch)
    for rule, rates in [("linear", [0.0, 0.5]), ("constant", [0.5, 0.5])]:
        model, variables = tiny(drop_path=0.5, drop_path_rule=rule)
        pytorch.write(tmp_path, model, variables, image_size=8, channels=2)
        loaded = pytorch.load_code(tmp_path).load(tmp_path)
        assert not loaded.training
        drops = [block.mixer.drop_path for block in loaded.blocks]
        assert [drop.rate for drop in drops] == rates
    torch.manual_seed(0)
    dropped = drops[1].train()(torch.ones(1000, 2, 2, 3)).flatten(1)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()  # whole images
    assert 0.9 < dropped.mean() < 1.1


def test_errors_of_the_pytorch_code() -> None:
    torch = needed(pytorch)
    from s2mlp_jax.export.s2mlp_torch import S2MLP

    for fields in ({"border": "wrap"}, {"norm": "batch_norm"}, {"shift": ["right", "north"]}):
        with pytest.raises(ValueError, match="'(wrap|batch_norm|north)' is not one of"):
            S2MLP(3, dim=8, depth=1, **fields)
    with pytest.raises(ValueError, match="must be multiples of 4 pixels"):
        S2MLP(3, dim=8, depth=1, patch_size=4)(torch.zeros(1, 3, 8, 10))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "resmlp_12"}, "has mixer token_linear. timm has MLP-Mixer, ResMLP, DeiT and Res"),
        ({"mixer": "depthwise"}, "`python -m s2mlp_jax.export --to-torch` writes their weights"),
        ({"later_depths": (1,), "later_dims": (8,)}, "not later_depths"),
        ({"norm": "group_norm", "position": "learned"}, "not norm=group_norm, position=learned"),
    ],
)
def test_models_that_pytorch_has_not(
    fields: dict[str, typing.Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=message):
        pytorch.write(tmp_path, *tiny(**fields), image_size=8, channels=2)
    assert not list(tmp_path.iterdir())


def test_models_that_onnx_has_not(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What jax2onnx refuses, and what it gets wrong without saying so."""
    needed(onnx_exporter)
    model, variables = tiny(name="as_mlp_t", **PYRAMID, border="replicate")
    with pytest.raises(ValueError, match="cannot be written as model.onnx: "):
        onnx_exporter.write(tmp_path, model, variables, image_size=8, channels=2)

    call_python = functools.partial(jax.pure_callback, np.sin, jax.ShapeDtypeStruct((), "float32"))
    monkeypatch.setattr(
        onnx_exporter,
        "classifier",
        lambda *_: lambda x: x.mean((1, 2)) + call_python(x[0, 0, 0, 0]),
    )
    with pytest.raises(ValueError, match="'pure_callback'"):
        onnx_exporter.write(tmp_path, model, variables, image_size=8, channels=2)
    calls = iter([1.0, 1.001])  # traced twice: for ONNX, and to compare with
    monkeypatch.setattr(
        onnx_exporter, "classifier", lambda *_: lambda x: 10 * x.mean((1, 2)) * next(calls)
    )
    with pytest.raises(ValueError, match=r"another function of it, with logits \d.*e-0\d off"):
        onnx_exporter.write(tmp_path, model, variables, image_size=8, channels=2)
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "pip install -r requirements-export.txt -c constraints.txt"
    for exporter, call, package in [
        (onnx_exporter, "write", "jax2onnx"),
        (onnx_exporter, "run", "onnxruntime"),
        (pytorch, "write", "torch"),
        (pytorch, "run", "torch"),
    ]:
        assert package in exporter.NEEDS
        monkeypatch.setitem(sys.modules, package, None)
        (tmp_path / "model.onnx").touch()
        arguments = (*tiny(), 8, 2) if call == "write" else (images(1),)
        with pytest.raises(ValueError, match=f" needs {package}: {command}"):
            getattr(exporter, call)(tmp_path, *arguments)
    # What is missing inside of a package that is there is another matter.
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_package.py").write_text("import no_such_package")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        common.require("broken_package", "model.onnx")


def needed(exporter: types.ModuleType) -> typing.Any:
    """Returns the first of an exporter's packages; without them the test is skipped."""
    reason = f"{exporter.__name__} needs {', '.join(exporter.NEEDS)}: requirements-export.txt"
    packages = [pytest.importorskip(package, reason=reason) for package in exporter.NEEDS]
    return packages[0] if packages else None
