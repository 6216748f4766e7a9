"""Model folders from strangers: whatever a file says, it loads or one sentence names the file."""

import copy
import functools
import json
import pathlib
import shutil
import time
import typing
from collections.abc import Iterator

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import s2mlp_jax
from s2mlp_jax.export.__main__ import main as export
from s2mlp_jax.export.model_card import write_card
from s2mlp_jax.models.variants import get_variant
from s2mlp_jax.predict import main as predict
from s2mlp_jax.saved import pretrained, untrusted
from s2mlp_jax.saved.arrays import flatten
from s2mlp_jax.saved.files import Folder, parse_json
from s2mlp_jax.saved.model_folder import ModelFolder, read_description, write_model_folder
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.weights_file import Weights, read_weights, write_weights

TRAINING = {
    "data": {
        "train": {"name": "folder:mine train", "images": 7},
        "eval": {"name": "folder:mine val", "images": 3},
    },
    "step": 10,
    "epoch": 1.0,
    "finished": True,
    "weights": "average",
    "parameters": 1,
    "macs": 10**11,
    "recipe": {"train.steps": 0, "train.epochs": 1.0, "train.dtype": "float32", "init_from": ""},
    "evaluation": {"accuracy_top1": 0.5, "accuracy_top5": 1.0, "loss": 1.5, "count": 3},
    "environment": {
        "git_commit": "abc",
        "python": "3.11",
        "versions": {"jax": "1"},
        "processor": "x",
        "devices": ["cpu"],
        "processes": 1,
    },
}
WRONG = [
    *(None, -1, 0, 1e308, float("nan"), float("inf"), "", [], {}, "x", "ä\ud800\x1b[31m", True),
    *(2**63, 10**400, 0.5, 5e-324, 1e-4, 80_000, 1_000_000, [[]], [1e308], ["x"], [None], {"": 1}),
    [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A whole folder; not to be changed."""
    net = s2mlp_jax.create_model("s2mlp_digits", num_classes=3, depth=1, dim=8)
    variables = s2mlp_jax.init(net, jax.random.key(0), 8, 1)
    weights = Weights(variables, "s2mlp_digits", 3, 8, net.variant.fields())
    how = Preprocessing(8, 1.0, "bicubic", (0.5,), (0.5,))
    content = ModelFolder(weights, how, ("a", "b", "c"), "float32", TRAINING)
    folder = tmp_path_factory.mktemp("model")
    write_model_folder(folder, content, "card")
    write_weights(folder / "alone.safetensors", weights)
    return folder


@pytest.fixture
def folder(model: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(model, tmp_path / "copy")


def fields_of(content: typing.Any, path: tuple = ()) -> Iterator[tuple]:
    """Yields the paths of everything in a JSON file, the whole file too."""
    yield path
    keys = range(len(content)) if isinstance(content, list) else content
    for key in keys if isinstance(content, list | dict) else ():
        yield from fields_of(content[key], (*path, key))


def changed(content: typing.Any, path: tuple, value: typing.Any) -> typing.Any:
    if not path:
        return value
    content = copy.deepcopy(content)
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


def refused(call: typing.Callable[[], object], file: str) -> bool:
    """Whether a call raises a ValueError; it must name the file in one sentence."""
    try:
        call()
    except ValueError as error:
        text = str(error)
    else:
        return False
    assert type(error_of(call)) is ValueError, text
    assert file in text
    assert "\n" not in text.split("weights are not those of the model")[0]
    assert len(text) < 3000
    return True


def error_of(call: typing.Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("file", ["config.json", "preprocessing.json", "class_names.json"])
def test_any_wrong_value_in_any_field(folder: pathlib.Path, file: str) -> None:
    path = folder / file
    whole = json.loads(path.read_text())
    count = 0
    for field in fields_of(whole):
        # A training record is not looked at but for the card, so that no model is built.
        read = pretrained.read if "training" in field else s2mlp_jax.load
        for value in WRONG:
            path.write_text(json.dumps(changed(whole, field, value)))
            started = time.process_time()
            case = f"{file} {field} {str(value)[:20]}"
            # Where two files disagree, either is named.
            if refused(functools.partial(read, folder), str(folder)):
                count += 1
                assert time.process_time() - started < 2, case
            else:
                card = error_of_card(folder)
                assert not card or "config.json" in card, case
                count += bool(card)
    assert count > 0.6 * len(WRONG) * len(list(fields_of(whole)))


def error_of_card(folder: pathlib.Path) -> str:
    content = pretrained.read(folder)
    try:
        write_card(content, "x", "")
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("file", ["config.json", "preprocessing.json", "class_names.json"])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b"[" * 100 + b"]" * 100,
        b"1" * 5000,
    ],
)
def test_any_text(folder: pathlib.Path, file: str, text: bytes) -> None:
    (folder / file).write_bytes(text)
    assert refused(lambda: s2mlp_jax.load(folder), file)
    if file != "class_names.json":
        assert refused(lambda: read_description(folder), file)


def test_a_large_file_is_not_read(folder: pathlib.Path) -> None:
    with (folder / "config.json").open("ab") as file:
        file.truncate(1 << 40)  # sparse: takes no room
    assert refused(lambda: s2mlp_jax.load(folder), "config.json cannot be read: it has 1,099,511,")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", 1_000_000, r"depth must be in \[1, 1000\], got 1000000"),
        ("depth", 200, "the model has 200 blocks, and its file 18 arrays"),
        ("later_depths", [1001], r"later_depths\[0\] must be in \[1, 1000\]"),
        ("dim", 10**9, r"dim must be in \[1, 16384\]"),
        ("patch_size", 0, "patch_size must be in"),
        ("patch_size", 3, "image_size 8 is not a multiple of 3"),
        ("name", "s2mlp_wide", "fields has unknown fields: 'name'"),
        ("mixer", "mine", "mixer 'mine' is unknown"),
    ],
)
def test_limits_of_the_model(
    folder: pathlib.Path, field: str, value: typing.Any, message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["fields"][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    started = time.process_time()
    with pytest.raises(ValueError, match=message):
        s2mlp_jax.load(folder)
    arrays = safetensors.numpy.load_file(folder / "alone.safetensors")
    safetensors.numpy.save_file(
        arrays, folder / "alone.safetensors", {"model": json.dumps(config["model"])}
    )
    with pytest.raises(ValueError, match=message):
        pretrained.check_fit(read_weights(folder / "alone.safetensors"), 1)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("file", "field", "value", "message"),
    [
        ("config.json", ("model", "image_size"), 80_000, "image_size must be from 1 to 8,192"),
        ("config.json", ("training",), None, "training must be an object with fields, got None"),
        ("config.json", ("model", "num_classes"), 10**9, "num_classes must be from 1 to 1,000,000"),
        ("preprocessing.json", ("crop_ratio",), 1e-4, "crop_ratio must be in"),
        ("preprocessing.json", ("image_size",), 80_000, r"image_size must be in \[1, 8192\]"),
        ("preprocessing.json", ("image_size",), 9, "image_size 9 is not a multiple of 2"),
        ("preprocessing.json", ("std",), [0.0], "std must be from 1e-06 to 1,000"),
        ("class_names.json", (), ["a", "b"], "has 2 names, and the model 3 classes"),
        ("class_names.json", (0,), "a" * 2000, r"class_names.json\[0\] has 2,000 characters"),
    ],
)
def test_limits_of_the_other_fields(
    folder: pathlib.Path, file: str, field: tuple, value: typing.Any, message: str
) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(changed(content, field, value)))
    with pytest.raises(ValueError, match=message):
        s2mlp_jax.load(folder)


def test_limits_of_the_arrays(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(file)
    one = np.zeros(1, np.float32)
    for more, message in (
        ({"params/" + "a/" * 100_000: one}, "100,002 parts, 'params/a/a"),
        ({"a" * 5_000: one}, "5,000 characters and 1 parts"),
        ({"params/head": one}, "has arrays 'params/head' and 'params/head/"),
        ({"": one}, "1 not expected"),
        ({"/": one, "//": one}, "has arrays '/' and '//'|2 not expected"),
    ):
        safetensors.numpy.save_file({**arrays, **more}, file)
        with pytest.raises(ValueError, match=message) as caught:
            s2mlp_jax.load(folder)
        assert str(folder) in str(caught.value)
    monkeypatch.setattr(untrusted, "MAX_ARRAYS", 5)
    with pytest.raises(ValueError, match="the number of arrays must be from 0 to 5, got 20"):
        s2mlp_jax.load(folder)


KERNEL = "params/head/kernel"


@pytest.mark.parametrize(
    "dtype", ["int32", "uint8", "bool", "complex64", "float8_e4m3fn", "float8_e5m2"]
)
def test_other_types_are_no_weights(folder: pathlib.Path, dtype: str) -> None:
    for file, read in (
        ("model.safetensors", lambda: s2mlp_jax.load(folder)),
        ("alone.safetensors", lambda: read_weights(folder / "alone.safetensors")),
    ):
        change(folder / file, lambda x: x.astype(getattr(ml_dtypes, dtype, dtype)))
        with pytest.raises(ValueError, match=rf"{file}.* {KERNEL} \("):
            read()


def change(file: pathlib.Path, how: typing.Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the kernel of the head in a file."""
    with safetensors.safe_open(file, "np") as opened:
        metadata = opened.metadata()
        metadata.pop("checksums")  # as another program writes it
    arrays = safetensors.numpy.load_file(file)
    arrays[KERNEL] = how(arrays[KERNEL])
    safetensors.numpy.save_file(arrays, file, metadata)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(
    folder: pathlib.Path, value: float, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    def poison(x: np.ndarray) -> np.ndarray:
        x[1, 2] = value
        return x

    for name in ("model.safetensors", "alone.safetensors"):
        change(folder / name, poison)
    message = f"these weights have NaN or infinite numbers: {KERNEL}."
    for arguments, command in (
        ([str(folder), str(folder / "README.md")], predict),
        ([str(folder), str(tmp_path / "out")], export),
        ([f"--to-torch={folder}", f"--output={tmp_path / 'x.pth'}"], export),
        ([f"--to-torch={folder / 'alone.safetensors'}", f"--output={tmp_path / 'x.pth'}"], export),
    ):
        assert command(arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert message in said.err
        assert "nan%" not in said.err
    assert not list(tmp_path.glob("*out*"))


def test_checkpoints_that_are_not_finite(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    from s2mlp_jax.saved import from_run
    from tests.helpers import tiny_config

    stored = pretrained.read(model).weights
    arrays = flatten(stored.variables)
    arrays["params/embed/bias"][3] = np.inf
    run = from_run.RunFolder(tmp_path)
    run.write_config(tiny_config())
    run.write_data({"class_names": ["a"], "channels": 1})

    class Poisoned:
        directory = tmp_path

        def __init__(self, *_: object, **__: object) -> None: ...

        def find(self, _: str) -> int:
            return 7

        def read_variables(self, *_: object) -> tuple[dict, bool]:
            return stored.variables, True

    monkeypatch.setattr(from_run, "Checkpoints", Poisoned)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"Checkpoint 7 in \S+: these .*: params/embed/bias\."):
        s2mlp_jax.load(tmp_path)


def test_a_mixer_does_not_draw_what_does_not_fit(folder: pathlib.Path) -> None:
    """The fixed random matrix has tokens x tokens numbers."""
    config = json.loads((folder / "config.json").read_text())
    config["model"]["fields"] = {"mixer": "random", "patch_size": 1, "depth": 1, "dim": 8}
    config["model"]["image_size"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="4096x4096 tokens, and the mixer random makes a matrix"):
        s2mlp_jax.load(folder)


def test_a_folder_of_something_else(tmp_path: pathlib.Path) -> None:
    for text in ("5", "null", '["training"]', '"training"'):
        (tmp_path / "config.json").write_text(text)
        assert Folder(tmp_path).kind == "run"
    assert parse_json("[" * 32 + "]" * 32)


def test_good_folders_load(model: pathlib.Path) -> None:
    loaded = s2mlp_jax.load(model)
    assert loaded.class_names == ("a", "b", "c")
    assert read_weights(model / "alone.safetensors").num_classes == 3
    # Larger than any that is published.
    net = untrusted.check_model(
        {
            "name": "s2mlp_deep",
            "num_classes": 21_843,
            "image_size": 1024,
            "fields": {"depth": 200, "dim": 8192},
        },
        "x",
    )
    assert net["fields"]["depth"] == 200


def test_a_flipped_bit_of_the_weights_is_noticed(tmp_path: pathlib.Path) -> None:
    """At 30 places of the file, its header included; the error names the file, or the array."""
    variables = {"params": {"a": np.random.RandomState(0).randn(40, 50).astype(np.float32)}}
    fields = get_variant("s2mlp_digits").fields()
    write_weights(tmp_path / "w.safetensors", Weights(variables, "s2mlp_digits", 10, 8, fields))
    content = (tmp_path / "w.safetensors").read_bytes()
    messages = []
    for place in np.linspace(0, len(content) - 1, 30).astype(int):
        damaged = bytearray(content)
        damaged[place] ^= 4
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        try:
            read = read_weights(tmp_path / "damaged.safetensors")
        except ValueError as error:
            messages.append(str(error))
        else:  # a space, or a field of the description, which is not the weights
            np.testing.assert_array_equal(read.variables["params"]["a"], variables["params"]["a"])
    assert all("damaged.safetensors" in message for message in messages)
    assert sum("is damaged: params/a differ from what was" in text for text in messages) > 15
