"""Frozen features: how much they know, by scikit-learn's classifiers."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits as sklearn_digits

from s2mlp_jax import create_model, init, probe
from s2mlp_jax.data.decoding import decode
from s2mlp_jax.data.sources import open_split
from s2mlp_jax.saved.model_folder import ModelFolder, write_model_folder
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.pretrained import load
from s2mlp_jax.saved.weights_file import Weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model that was only drawn; even so its features tell digits apart."""
    net = create_model("s2mlp_digits", num_classes=10, depth=1, dim=32, shift="b")
    variables = init(net, jax.random.key(0), 8, 1)
    weights = Weights(variables, "s2mlp_digits", 10, 8, net.variant.fields())
    how = Preprocessing(8, 1.0, "bicubic", (0.3,), (0.38,))
    folder = tmp_path_factory.mktemp("probe")
    write_model_folder(
        folder, ModelFolder(weights, how, tuple("0123456789"), "float32", {}), "# a card\n"
    )
    return folder


def test_features_are_of_every_image_in_order(model: pathlib.Path) -> None:
    split, loaded = open_split("digits", "test"), load(model)
    found, labels = probe.features(loaded, split, batch_size=100, num_threads=0)
    assert (found.shape, labels.shape) == ((360, 32), (360,))
    assert labels.tolist() == [split.source[i]["label"] for i in range(360)]
    images = np.stack([loaded.preprocess(decode(split.source[i], 1, "digits")) for i in (0, 359)])
    expected = loaded.model.apply(loaded.variables, images, train=False, output="pooled")
    np.testing.assert_allclose(found[[0, 359]], expected, atol=1e-5)


def test_classifiers_against_what_is_known() -> None:
    """scikit-learn's digits by their pixels: its documentation has 97 % and 96 % or so."""
    pixels, labels = sklearn_digits(return_X_y=True)
    fit, judge = (pixels[:1000], labels[:1000]), (pixels[1000:], labels[1000:])
    assert 0.94 < probe.nearest_neighbors(fit, judge, 5) < 0.99
    assert 0.90 < probe.linear_probe(fit, judge) < 0.97
    shuffled = (pixels[:1000], np.random.default_rng(0).permutation(labels[:1000]))
    assert probe.linear_probe(shuffled, judge) < 0.3


def test_near_neighbors_outvote_more_of_them_that_are_far() -> None:
    near, far = [[1.0, 0.01], [1.0, -0.01]], [[0.0, 1.0], [0.1, 1.0], [-0.1, 1.0]]
    fit = (np.array(near + far), np.array([0, 0, 1, 1, 1]))
    assert probe.nearest_neighbors(fit, (np.array([[1.0, 0.0]]), np.array([0])), 5) == 1.0


def test_the_command(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "probe.json"
    assert probe.main([str(model), "digits", f"--output={file}", "--neighbors=3"]) == 0
    said = capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["count"] == 360
    assert f"3 nearest neighbours  top-1 {result['nearest_neighbors']:.2%}" in said
    assert f"linear probe  top-1 {result['linear_probe']:.2%}" in said
    assert "1,437 images, 32 features of each" in said
    assert result["linear_probe"] > 0.5


def test_a_folder_is_judged_by_its_val_and_all_that_vote_are_counted(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    images = sklearn_digits().images[:30].astype(np.uint8) * 16
    for i, image in enumerate(images):
        place = tmp_path / "train" if i < 20 else tmp_path / "val"
        (place / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / str(i % 2) / f"{i}.png")
    assert probe.main([str(model), f"folder:{tmp_path}", "--neighbors=200"]) == 0
    said = capsys.readouterr().out
    assert "val: 10 images" in said
    assert "20 nearest neighbours" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--eval_split=val"], "has no split 'val'. It has train, test"),
        (["digts"], "Unknown data set 'digts'.* Did you mean .*'digits'"),
        (["digits", "--neighbors=0"], "--neighbors must be greater than 0, got 0"),
        (["folder:/nowhere"], "There is no folder /nowhere"),
        (["digits", "--output=no/such/x.json"], "--output=no/such/x.json: there is no such fol"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, model: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    assert probe.main([str(model), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
