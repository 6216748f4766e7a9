"""Names from strangers, on every way out: terminals, JSON, CSV, Markdown, HTML, pictures."""

import csv
import io
import json
import os
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import s2mlp_jax
from s2mlp_jax import cli, progress
from s2mlp_jax.escape import code, json_line, markdown, printable
from s2mlp_jax.export.model_card import write_card
from s2mlp_jax.predict import main as predict
from s2mlp_jax.report import markdown as report_md
from s2mlp_jax.report import page
from s2mlp_jax.report.runs import Run, Study
from s2mlp_jax.report.write import _write_csv
from s2mlp_jax.saved import pretrained
from s2mlp_jax.saved.model_folder import ModelFolder, write_model_folder
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.weights_file import Weights
from s2mlp_jax.visualize.confusion_matrix import _page
from tests.faults.test_model_folders import TRAINING

# A colour, a bell, a title of the window, the end of a line, another direction, half a character.
EVIL = "a\x1b[31m\x07\x1b]0;x\x07\n# H\r\x85\u202e\udcff<script>alert(1)</script>|[l](http://x)`c`"
BAD = ("\x1b", "\x07", "\r", "\x85", "\u202e", "\udcff")
HTML = ("<script", "\n# H", "[l](http", "`c`")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An exported model whose names are evil."""
    net = s2mlp_jax.create_model("s2mlp_digits", num_classes=2, depth=1, dim=8)
    variables = s2mlp_jax.init(net, jax.random.key(0), 8, 3)
    weights = Weights(variables, "s2mlp_digits", 2, 8, net.variant.fields())
    how = Preprocessing(8, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)
    folder = tmp_path_factory.mktemp("model")
    write_model_folder(folder, ModelFolder(weights, how, (EVIL, "b"), "float32", {}), "")
    return folder


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    """An image and a text, with names that are not UTF-8."""
    (tmp_path / "good.png").touch()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "good.png")
    os.rename(tmp_path / "good.png", os.fsencode(tmp_path) + b"/\x1b[2J\xff.png")
    (tmp_path / "\x1b[31m\r.txt").write_text("no image")
    return tmp_path


def clean(text: str) -> bool:
    text.encode()  # no halves of characters
    return not any(bad in text for bad in BAD)


def test_class_names_survive_the_folder(model: pathlib.Path) -> None:
    assert s2mlp_jax.load(model).class_names == (EVIL, "b")


@pytest.mark.parametrize("how", ["table", "jsonl", "csv"])
def test_predict(
    model: pathlib.Path, images: pathlib.Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict([str(model), str(images), f"--format={how}"]) == 4
    said = capsys.readouterr()
    assert clean(said.out.replace("\r\n", "\n"))
    assert clean(said.err)
    assert r"No image: " in said.err
    assert r"\x1b[31m\r.txt" in said.err
    lines = said.out.splitlines()
    if how == "table":
        assert len(lines) == 1
        assert r"\x1b[2J\udcff.png  " in lines[0]
        assert r"\n# H" in lines[0]
    elif how == "jsonl":
        good, bad = sorted(map(json.loads, lines), key=lambda line: "error" in line)
        assert os.fsencode(good["file"]).endswith(b"/\x1b[2J\xff.png")  # the very name
        assert {p["class"] for p in good["predictions"]} == {EVIL, "b"}
        assert bad["file"].endswith("\x1b[31m\r.txt")
    else:
        head, *rows = csv.reader(io.StringIO(said.out))
        assert [len(row) for row in rows] == [len(head)] * 2


def test_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @cli.command
    def fails() -> int:
        raise ValueError(f"{EVIL}\nsecond line")

    progress.say(EVIL)
    # A mistake is one of this package's, or of the user's own file, as this one is.
    assert fails() == 2
    with pytest.raises(SystemExit):
        cli.Parser(prog="x").parse_args([EVIL])
    said = capsys.readouterr()
    assert clean(said.out)
    assert clean(said.err)
    assert said.err.count("\nsecond line") == 1
    assert r"a\x1b[31m" in said.out
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.Meter(EVIL, 2, "B") as meter:
        meter.show(1)
    assert r"a\x1b[31m" in capsys.readouterr().err


def study() -> Study:
    result = {
        "evaluation": {"eval/accuracy_top1": 0.5, "eval/accuracy_top5": 1.0, "eval/loss": 1.0}
        | {"eval/count": 7},
        **{"parameters": 1, "macs": 1, "epochs": 1.0, "train_images": 7, "steps": 1},
        **{"batch_size": 7, "model": EVIL, "train_data": EVIL, "eval_data": EVIL},
    }
    environment = {**TRAINING["environment"], "command": [EVIL], "processor_cores": 1}  # type: ignore[dict-item]
    environment |= {"platform": EVIL, "devices": [EVIL]}
    runs = [
        Run(EVIL, 0, pathlib.Path(), "done", result, [], environment),
        Run(EVIL, 1, pathlib.Path(), "failed", {}, [], {}, EVIL),
    ]
    paper = {"label": EVIL, "top1": 1.0, "top5": 1.0, "note": EVIL}
    settings = {EVIL: {"overrides": {}, "paper": paper}}
    return Study(EVIL, EVIL, EVIL, "", EVIL, settings, {EVIL: runs})


def test_reports(tmp_path: pathlib.Path) -> None:
    text = report_md.report([study()], {EVIL: [f"{EVIL}.png"]})
    assert clean(text)
    outside_code = "".join(text.split("`")[::2])
    assert not any(bad in outside_code for bad in HTML)
    assert sum(line.startswith("#") for line in text.splitlines()) == 3  # the report's own
    text = page.report([study()], {})
    assert clean(text)
    assert "<script" not in text
    _write_csv(tmp_path / "runs.csv", [{"x": EVIL}])
    assert (tmp_path / "runs.csv").read_text()


def test_model_cards(model: pathlib.Path) -> None:
    data = {part: {"name": f"{EVIL} {part}", "images": 7} for part in ("train", "eval")}
    training = {**TRAINING, "data": data, "recipe": {"train.steps": 0, EVIL: EVIL, "x": EVIL}}
    training["environment"] = {
        **TRAINING["environment"],  # type: ignore[dict-item]
        **{"git_commit": EVIL, "versions": {EVIL: EVIL}, "devices": [EVIL], "processor": EVIL},
    }
    content = pretrained.read(model)._replace(training=training)
    card = write_card(content, EVIL, "Use `FOLDER`.", EVIL)
    assert clean(card)
    _, front, body = card.split("---\n", 2)
    outside_code = "".join(body.split("`")[::2])
    assert not any(bad in outside_code for bad in HTML)
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert [line.split()[1][:3] for line in headings] == ["a\\\\", "Use", "Tra", "Lic"]
    assert len(front.splitlines()) == 15  # no name begins a line


def test_pictures() -> None:
    figure = _page(np.eye(2, dtype=int), (EVIL[:9], "$\\frac$"), "title")
    figure.savefig(io.BytesIO(), format="png")  # a formula would be an error, a bell a warning


def test_the_functions() -> None:
    assert printable("Æ 日本 a-b_c.png") == "Æ 日本 a-b_c.png"
    assert printable(b"\xff".decode(errors="surrogateescape")) == r"\udcff"
    assert printable("a\nb\r", lines=True) == "a\nb\\r"
    assert json.loads(json_line({"a": EVIL})) == {"a": EVIL}
    assert json_line({"a": "日本"}) == '{"a": "日本"}'
    assert markdown("top-1 ± 0.5, s2mlp_wide (a)") == "top-1 ± 0.5, s2mlp_wide (a)"
    for text, expected in (
        ("# x", r"\# x"),
        ("- x", r"\- x"),
        ("-0.5", "-0.5"),
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("![x](y)", r"![x\](y)"),
    ):
        assert markdown(text) == expected
    assert code("a`b\n") == r"`a'b\n`"
