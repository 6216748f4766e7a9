"""What is done with a trained model: one folder, `load`, `predict`, and its features."""

import contextlib
import csv
import dataclasses
import datetime
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import typing

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import s2mlp_jax
from benchmarks.exported import run_elsewhere
from s2mlp_jax import predict
from s2mlp_jax.data.pipeline import eval_batches
from s2mlp_jax.data.sources import open_split
from s2mlp_jax.export import __main__ as export
from s2mlp_jax.export import export_model, stablehlo
from s2mlp_jax.models.backbone import OUTPUTS
from s2mlp_jax.report import read_study
from s2mlp_jax.saved import from_run, pretrained
from s2mlp_jax.saved.files import write_json
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.restore import evaluate_workdir
from tests.helpers import ROOT, read_state, tiny_config
from tests.test_models import small_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with averaged weights that has learned something, and makes mistakes."""
    folder = tmp_path_factory.mktemp("use") / "run"
    config = tiny_config(
        train__ema_decay=0.9,
        train__accumulation_steps=1,
        train__steps=60,
        model__drop_path=0.0,
        optimizer__learning_rate=0.02,
        eval__every_epochs=9.0,
        checkpoint__every_epochs=9.0,
    )
    train_and_evaluate(config, folder, jax.devices()[:1])
    return folder


@pytest.fixture(scope="module")
def model(run: pathlib.Path) -> pathlib.Path:
    """Its folder, as the command writes it."""
    folder = run.parent / "model"
    assert export.main([str(run), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def images(run: pathlib.Path) -> pathlib.Path:
    """The 360 test images, as files, named by their order."""
    folder = run.parent / "images"
    folder.mkdir()
    split = open_split("digits", "test")
    for i in range(len(split)):
        (folder / f"{i:03d}.png").write_bytes(split.source[i]["image"])
    return folder


def say(arguments: list[str]) -> tuple[int, str, str]:
    """Runs predict; returns its exit code, and what it says and reports."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = predict.main(arguments)
    return code, out.getvalue(), err.getvalue()


# --- features


@pytest.mark.parametrize(
    ("name", "fields", "shapes"),
    [
        ("s2mlp_wide", {}, [(2, 2, 2, 16)]),
        ("s2mlp_v2_small_7", {}, [(2, 4, 4, 16), (2, 2, 2, 32)]),
        ("deit_ti", {}, [(2, 2, 2, 16)]),
        ("resnet_50", {}, [(2, 4, 4, 64), (2, 2, 2, 128)]),
    ],
)
def test_features_are_those_of_the_stages(name: str, fields: dict, shapes: list) -> None:
    sizes: dict[str, typing.Any] = {"depth": 1, "dim": 16}
    if len(shapes) > 1:
        sizes |= {"later_depths": (1,), "later_dims": (32,)}
    if name == "deit_ti":
        sizes |= {"head_dim": 8}
    patch = 4 if shapes[0][1] == 2 else 1 if name == "resnet_50" else 2
    if name == "resnet_50":
        shapes = [(2, 8, 8, 64), (2, 4, 4, 128)]
    net = s2mlp_jax.create_model(name, num_classes=3, **sizes, patch_size=patch)
    variables = s2mlp_jax.init(net, jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    stages = net.apply(variables, x, train=False, output="stages")
    assert [stage.shape for stage in stages] == shapes
    if name == "deit_ti":  # the tokens of the image, which follow that of the class
        _, caught = net.apply(
            variables, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
        (row,) = caught["intermediates"]["block_00"]["__call__"]
        np.testing.assert_array_equal(stages[0].reshape(2, 4, 16), row[:, 0, 1:])
    pooled = net.apply(variables, x, train=False, output="pooled")
    head = jax.tree.map(np.asarray, variables["params"]["head"])
    logits = net.apply(variables, x, train=False)
    np.testing.assert_allclose(
        np.asarray(pooled) @ head["kernel"] + head["bias"], logits, atol=1e-6
    )
    if not net.variant.final_norm:
        np.testing.assert_allclose(stages[-1].mean(axis=(1, 2)), pooled, atol=1e-6)


def test_features_run_no_head_and_are_named() -> None:
    net = small_model("s2mlp_wide")
    variables = s2mlp_jax.init(net, jax.random.key(0), 8)
    del variables["params"]["head"]
    x = np.zeros((1, 8, 8, 3), np.float32)
    for output in OUTPUTS[1:]:
        net.apply(variables, x, train=False, output=output)
    with pytest.raises(ValueError, match="'heads'. Allowed are logits, pooled, stages"):
        net.apply(variables, x, train=False, output="heads")


# --- one folder is a model


def test_a_folder_is_what_the_run_is_judged_by(model: pathlib.Path, run: pathlib.Path) -> None:
    assert {path.name for path in model.iterdir()} == {
        "README.md",
        "class_names.json",
        "config.json",
        "model.safetensors",
        "preprocessing.json",
    }
    arrays = safetensors.numpy.load_file(model / "model.safetensors")
    state = read_state(run)
    assert len(arrays) == len([name for name in state if name.startswith("/ema_params")])
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, state[f"/ema_{name}"])
    last = run.parent / "last"
    assert export.main([str(run), str(last), "--weights=last"]) == 0
    arrays = safetensors.numpy.load_file(last / "model.safetensors")
    np.testing.assert_array_equal(arrays["params/head/bias"], state["/params/head/bias"])
    told = json.loads((last / "config.json").read_text())["training"]
    evaluation = json.loads((run / "result.json").read_text())["evaluation"]
    assert told["weights"] == "last"
    assert told["evaluation"]["loss"] == evaluation["eval/loss"] != evaluation["eval_ema/loss"]


def test_a_card_says_what_was_measured(model: pathlib.Path, run: pathlib.Path) -> None:
    card = (model / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    top1 = result["evaluation"]["eval_ema/accuracy_top1"]
    assert f"| digits/1.0.0 test | 360 | {top1:.2%} |" in card
    assert f"value: {top1}" in card
    for text in (
        "license: ",
        "digits/1.0.0 train, 1,437 images",
        "step 60, averaged weights.",
        "| `train.steps` | 60 |",
        "| `optimizer.learning_rate` | 0.02 |",
        "Commit ",
        "jax ",
        'load("model")',
        f"{result['parameters']:,} parameters",
    ):
        assert text in card, text
    assert "train.epochs" not in card


def test_load_is_one_line_for_a_folder_and_a_run(model: pathlib.Path, run: pathlib.Path) -> None:
    net, variables, preprocess, class_names = s2mlp_jax.load(model)
    assert class_names == tuple("0123456789")
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    x = preprocess(image)[None]
    assert (x.shape, x.dtype) == ((1, 8, 8, 1), np.float32)
    again = s2mlp_jax.load(run)
    logits = net.apply(variables, x, train=False)
    np.testing.assert_array_equal(again.model.apply(again.variables, x, train=False), logits)
    larger = s2mlp_jax.load(model, image_size=16)
    assert larger.preprocess(image).shape == (16, 16, 1)
    assert larger.model.apply(larger.variables, larger.preprocess(image)[None], train=False).shape
    with pytest.raises(ValueError, match="image_size 9 is not a multiple of 2"):
        s2mlp_jax.load(model, image_size=9)


def test_a_run_is_loaded_without_its_data(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = (
        "import s2mlp_jax, sys; loaded = s2mlp_jax.load(sys.argv[1]);"
        "print(loaded.class_names, loaded.model.variant.dim)"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(run)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "'9') 16" in done.stdout
    assert not list(tmp_path.iterdir())  # nor prepared


def copy_of(model: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_folder_that_does_not_fit_is_refused(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = copy_of(model, tmp_path / "other")
    weights = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(weights)
    arrays["params/head/kernel"] = np.zeros((16, 3), np.float32)
    arrays["params/more"] = np.zeros((1,), np.float32)
    del arrays["params/embed/bias"]
    safetensors.numpy.save_file(arrays, weights)
    with pytest.raises(ValueError) as caught:
        s2mlp_jax.load(folder)
    for text in ("1 missing:\n  params/embed/bias", "1 not expected:\n  params/more"):
        assert text in str(caught.value)
    assert "params/head/kernel: 16x3 there, 16x10 expected" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{}", "config.json has no field model, training"),
        ("config.json", "{", "config.json cannot be read"),
        ("class_names.json", '["a"]', "has 1 names, and the model 10 classes"),
        ("preprocessing.json", '{"image_size": 8}', "preprocessing.json has no field crop_ratio"),
        ("model.safetensors", "x", "model.safetensors cannot be read"),
    ],
)
def test_a_broken_folder_is_told(
    file: str, text: str, message: str, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = copy_of(model, tmp_path / "broken")
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        s2mlp_jax.load(folder)


def test_mistakes_of_load(model: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for path, options, message in (
        (tmp_path / "no", {}, "There is no folder"),
        (tmp_path, {}, "is not the folder of a run or an exported model: it holds none of"),
        (model, {"checkpoint": "best"}, "holds one set of weights"),
        (model, {"weights": "ema"}, "Allowed are average, last"),
        (run, {"checkpoint": "7"}, "Allowed are latest, best, 60"),
    ):
        with pytest.raises(ValueError, match=message):
            s2mlp_jax.load(path, **options)


def test_an_export_is_whole_or_not_there(
    model: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    out = tmp_path / "out"

    def wrong(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
        return run_stablehlo(folder, images) + 2e-4

    run_stablehlo = stablehlo.run
    monkeypatch.setattr(stablehlo, "run", wrong)
    assert export.main([str(model), str(out), "--format=stablehlo"]) == 3
    assert "logits differ by up to 2.0e-04, and 0.0001 is allowed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert export.main([str(model), str(out), "--format=stablehlo"]) == 0
    said = capsys.readouterr().out
    difference = re.search(r"largest difference of a logit (\S+), 8 images", said)
    assert difference is not None
    assert float(difference[1]) < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "jax.export.deserialize" in (out / "README.md").read_text()
    assert export.main([str(model), str(out), "--format=stablehlo"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert export.main([str(model)]) == 2
    assert "MODEL OUT" in capsys.readouterr().err
    other = str(tmp_path / "other")
    assert export.main([str(model), "--format=stablehlo", other, "--images=no"]) == 2
    assert "There is no file or folder no." in capsys.readouterr().err
    assert export.main([str(model), other, f"--images={model / 'README.md'}"]) == 2
    assert "README.md: it is no image of a format that Pillow reads." in capsys.readouterr().err


def test_an_export_at_another_size(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert export.main([str(model), str(out), "--format=stablehlo", "--image_size=16"]) == 0
    exported = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert exported.in_avals[0].shape[1:] == (16, 16, 1)
    card = (out / "README.md").read_text()
    assert "images of 16x16 pixels and 10 classes" in card
    assert "It was trained at 8x8 pixels" in card
    written = re.search(rf"by jax {re.escape(jax.__version__)} on (\S+)\. It is read", card)
    assert written, card
    last = datetime.date.fromisoformat(written[1]) + datetime.timedelta(weeks=26)
    assert f"which is no later than {last}. Newer versions refuse it: export the model ag" in card
    assert json.loads((out / "preprocessing.json").read_text())["image_size"] == 16
    for text in ("It was trained at", "Newer versions refuse it", "EXPIRY"):
        assert text not in (model / "README.md").read_text()
    capsys.readouterr()
    for arguments, message in (
        ([str(model), "OUT", "--image_size=9"], "image_size 9 is not a multiple of 2"),
        ([str(model), "OUT", "--num_classes=3"], "--num_classes: for --from-torch and --to-t"),
        (["--to-torch=x", "--output=OUT", "--image_size=8"], "--image_size: not for --to-torch"),
        (["--from-torch=x", "--output=OUT", "--weights=last"], "--weights: of a run, and not"),
        (["--to-torch=x", "--output=OUT", "--format=onnx"], "--format: for MODEL OUT"),
    ):
        assert export.main([x.replace("OUT", str(tmp_path / "other")) for x in arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_exported_model_is_no_run(model: pathlib.Path) -> None:
    before = sorted(model.iterdir())
    with pytest.raises(
        ValueError,
        match="is an exported model, not the folder of a run. Exported models are for s2mlp_jax.p",
    ):
        evaluate_workdir(model)
    with pytest.raises(ValueError, match="is an exported model, not the folder of a run"):
        train_and_evaluate(tiny_config(), model, jax.devices()[:1])
    with pytest.raises(
        ValueError, match="is an exported model, not the folder of a sweep or the folder of a run"
    ):
        read_study(model)
    assert sorted(model.iterdir()) == before


def test_a_missing_package_is_named(
    model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match="needs safetensors: pip install"):
        export_model.export_model(model, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", export_model.FORMATS)
def test_a_format_predicts_the_same_without_this_package(
    kind: str, model: pathlib.Path, images: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if package := {"onnx": "jax2onnx", "torch": "torch"}.get(kind):
        pytest.importorskip(package, reason=f"--format={kind} needs requirements-export.txt")
    assert export.main([str(model), str(tmp_path / "out"), f"--format={kind}"]) == 0
    loaded = s2mlp_jax.load(model)
    inputs = np.stack([loaded.preprocess(file) for file in sorted(images.iterdir())])
    logits = run_elsewhere(kind, tmp_path / "out", inputs)
    expected = np.asarray(loaded.model.apply(loaded.variables, inputs, train=False))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert logits.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()


def test_preprocessing_takes_files_pictures_and_pixels(tmp_path: pathlib.Path) -> None:
    how = Preprocessing(8, 0.5, "bicubic", [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = how.pixels(pixels)
    for same in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels)):
        np.testing.assert_array_equal(how.pixels(same), expected)
    np.testing.assert_allclose(
        how(pixels), (expected / 255 - how.mean) / np.array(how.std), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"float32\[4, 4\]"):
        how.pixels(np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="mean and std must have 1 or 3 entries"):
        Preprocessing(8, 1.0, "bicubic", (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(ValueError, match="Allowed are bicubic"):
        Preprocessing(8, 1.0, "cubic", (0.5,), (0.5,))
    for other in ({"antialias": False}, {"decoder": "turbo"}):
        with pytest.raises(ValueError, match="but with antialias true and decoder pillow"):
            Preprocessing(8, 1.0, "bicubic", (0.5,), (0.5,), **other)


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_the_evaluation_s(channels: int, tmp_path: pathlib.Path) -> None:
    """Of JPEGs of several sizes, which are decoded, resized and cropped."""
    how = Preprocessing(16, 0.8, "bicubic", (0.5,) * channels, (0.5,) * channels)
    rng = np.random.default_rng(0)
    for i, size in enumerate([(40, 30), (30, 41), (16, 16), (9, 25)]):
        path = tmp_path / "train" / "class" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    split = dataclasses.replace(open_split(f"folder:{tmp_path}", "train"), channels=channels)
    (batch,) = eval_batches(split, how.crops, 4, np.arange(4), num_threads=0)
    for i, image in enumerate(batch["image"]):
        path = tmp_path / "train" / split.source[i]["key"]
        np.testing.assert_array_equal(how.pixels(path), image)


def test_more_than_eight_bits_are_refused(tmp_path: pathlib.Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="more than 8 bits a pixel"):
        Preprocessing(8, 1.0, "bicubic", (0.5,), (0.5,)).pixels(tmp_path / "x.png")


def test_a_model_computes_as_it_was_evaluated(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = copy_of(model, tmp_path / "half")
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert s2mlp_jax.load(model).model.dtype == np.float32
    write_json(folder / "config.json", {**config, "dtype": "bfloat16"})
    assert s2mlp_jax.load(folder).model.dtype == jax.numpy.bfloat16
    assert s2mlp_jax.load(folder, dtype=np.float32).model.dtype == np.float32
    write_json(folder / "config.json", {**config, "dtype": "float16"})
    with pytest.raises(ValueError, match=r"config.json: unknown dtype 'float16'. Allowed are fl"):
        s2mlp_jax.load(folder)


def test_a_folder_without_the_dtype_opens(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """As commit 9eb45ab wrote it: the dtype stood in the recipe alone, and not in every folder."""
    folder = copy_of(model, tmp_path / "before")
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    assert list(config) == ["model", "training"]
    config["training"]["recipe"]["train.dtype"] = "bfloat16"
    write_json(folder / "config.json", config)
    assert s2mlp_jax.load(folder).model.dtype == jax.numpy.bfloat16
    write_json(folder / "config.json", {**config, "training": {}})
    assert s2mlp_jax.load(folder).model.dtype == np.float32


# --- predict


def test_predict_is_the_evaluation_image_by_image(
    model: pathlib.Path, run: pathlib.Path, images: pathlib.Path
) -> None:
    """Of files that hold the evaluation split's bytes; an odd batch, so that the last is filled."""
    loaded = s2mlp_jax.load(model)
    files = sorted(images.iterdir())
    found = list(predict.predict(loaded, files, batch_size=77, num_threads=2))
    split = open_split("digits", "test")
    labels = [split.source[i]["label"] for i in range(len(split))]
    hits = sum(p.classes[0] == label for p, label in zip(found, labels, strict=True))
    within = sum(label in p.classes for p, label in zip(found, labels, strict=True))
    result = evaluate_workdir(run)
    assert 50 < hits < 360
    assert hits / 360 == result["eval_ema/accuracy_top1"]
    assert within / 360 == result["eval_ema/accuracy_top5"]
    inputs = np.stack([loaded.preprocess(file) for file in files])
    logits = np.asarray(loaded.model.apply(loaded.variables, inputs, train=False))
    assert [p.classes[0] for p in found] == logits.argmax(axis=1).tolist()
    shares = np.asarray(jax.nn.softmax(logits)).max(axis=1)
    np.testing.assert_allclose([p.probabilities[0] for p in found], shares, rtol=1e-5)


@pytest.fixture
def mixed(tmp_path: pathlib.Path) -> pathlib.Path:
    """Good images in a folder with a truncated one, a text, a CMYK one, and what systems leave."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "good.jpg")
    Image.fromarray(pixels).save(folder / "below/good.png")
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
    whole = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no image")
    (folder / ".DS_Store").write_text("hidden")
    return folder


def test_what_is_no_image_is_reported_and_passed_over(
    mixed: pathlib.Path, model: pathlib.Path
) -> None:
    code, out, err = say([str(model), str(mixed), "--batch_size=2"])
    assert code == 4
    assert [line.split()[0] for line in out.splitlines()] == [
        str(mixed / name) for name in ("cmyk.jpg", "good.jpg", "below/good.png")
    ]
    assert out.count("%") == 15
    assert f"No image: {mixed / 'cut.jpg'}: " in err
    assert f"No image: {mixed / 'notes.txt'}: " in err
    assert "3 images in " in err
    assert "images/s; 2 files could not be read as images" in err
    assert "DS_Store" not in err
    assert say([str(model), str(mixed / "good.jpg")])[0] == 0


def test_each_image_keeps_its_own_prediction_beside_a_broken_one(
    images: pathlib.Path, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    first, second = sorted(images.iterdir())[:2]
    loaded = s2mlp_jax.load(model)
    alone = list(predict.predict(loaded, [first, second], batch_size=3))
    assert alone[0].probabilities != alone[1].probabilities
    found = list(predict.predict(loaded, [broken, first, broken, second], batch_size=3))
    assert [found[1], found[3]] == alone
    assert found[0].error


def test_a_card_has_the_figures_of_its_own_step(tmp_path: pathlib.Path) -> None:
    names = ("accuracy_top1", "accuracy_top5", "loss", "count")
    lines = [{"step": step, **{f"eval/{name}": step for name in names}} for step in (5, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in (5, 10):
        assert from_run._evaluation(RunFolder(tmp_path), step, "eval")["loss"] == step
    assert from_run._evaluation(RunFolder(tmp_path), 7, "eval") == {}


def test_formats_say_the_same(mixed: pathlib.Path, model: pathlib.Path) -> None:
    arguments = [str(model), str(mixed)]
    lines = [json.loads(x) for x in say([*arguments, "--format=jsonl"])[1].splitlines()]
    text = say([*arguments, "--format=csv", "--top=2"])[1]
    table = list(csv.DictReader(text.splitlines()))
    assert len(lines) == len(table) == 5
    for line, row in zip(lines, table, strict=True):
        assert line["file"] == row["file"]
        assert bool(row["error"]) == ("error" in line)
        if "error" not in line:
            first, second, *_ = line["predictions"]
            assert [row["class_1"], row["class_2"]] == [first["class"], second["class"]]
            assert float(row["probability_1"]) == pytest.approx(first["probability"], abs=1e-6)
            assert sum(p["probability"] for p in line["predictions"]) <= 1 + 1e-9
            assert first["probability"] >= second["probability"]


def test_mistakes_of_predict(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for arguments, message in (
        ([str(model), "no.jpg", "nor.jpg"], "no file or folder no.jpg, nor.jpg"),
        ([str(tmp_path), str(model)], "is not the folder of a run or an exported model"),
        ([str(model), str(tmp_path)], "There are no files in"),
        ([str(model), str(model), "--top=0"], "--top must be at least 1, got 0"),
    ):
        code, out, err = say(arguments)
        assert (code, out) == (2, "")
        assert message in err


def test_predict_as_a_command(model: pathlib.Path, images: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "s2mlp_jax.predict", str(model), str(images / "000.png")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert "000.png  " in done.stdout
    assert "1 image in" in done.stderr


def test_a_reader_that_has_enough(model: pathlib.Path, images: pathlib.Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "s2mlp_jax.predict", str(model), str(images)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    process.stdout.close()  # as `head` does, here before the first line
    _, err = process.communicate()
    assert (process.returncode, b"Traceback" in err) == (0, False)


def test_check_fit_knows_every_family() -> None:
    """Running statistics too."""
    fields = {"depth": 1, "dim": 4, "later_depths": (), "later_dims": ()}
    net = s2mlp_jax.create_model("resnet_50", num_classes=2, **fields)
    variables = s2mlp_jax.init(net, jax.random.key(0), 32)
    stored = pretrained.Weights(variables, "resnet_50", 2, 32, fields)
    pretrained.check_fit(stored, 3)
    del variables["batch_stats"]["norm_stem"]["mean"]
    with pytest.raises(ValueError, match="1 missing:\n  batch_stats/norm_stem/mean"):
        pretrained.check_fit(stored, 3)
