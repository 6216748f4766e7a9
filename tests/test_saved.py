"""Folders on disk: what they are, their files, and what is said where one is not the right one."""

import json
import pathlib

import pytest

import s2mlp_jax
from s2mlp_jax.report import read_study
from s2mlp_jax.saved.files import Folder, read_json, write_json
from s2mlp_jax.saved.run_folder import RunFolder
from tests.helpers import tiny_config


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, "none"),
        ({"notes.txt": ""}, "none"),
        ({"config.json": '{"seed": 0}'}, "run"),
        ({"checkpoints/": ""}, "run"),
        ({"config.json": '{"seed": 0}', "log.txt": "", "checkpoints/": ""}, "run"),
        ({"config.json": '{"model": {}, "training": {}}'}, "exported model"),
        ({"model.safetensors": ""}, "exported model"),
        ({"sweep.jsonl": "", "starts.jsonl": "", "a/0/config.json": "{}"}, "sweep"),
    ],
)
def test_a_folder_says_what_it_is(files: dict[str, str], kind: str, tmp_path: pathlib.Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text(text)
    assert Folder(tmp_path).kind == kind
    assert Folder(tmp_path / "elsewhere").kind == "none"


def test_a_folder_of_another_kind_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sweep.jsonl").touch()
    folder = RunFolder(tmp_path)
    with pytest.raises(
        ValueError, match="is the folder of a sweep, not the folder of a run. Its r"
    ):
        folder.check_config(tiny_config())
    with pytest.raises(ValueError, match="is the folder of a sweep, not the folder of a run or an"):
        s2mlp_jax.load(tmp_path)
    (tmp_path / "sweep.jsonl").unlink()
    folder.check_config(tiny_config())  # a new one
    with pytest.raises(ValueError, match="not the folder of a run: it holds none of config.json, "):
        folder.read_config()
    folder.write_config(tiny_config())
    folder.check_config(tiny_config())
    assert folder.read_config().model.name == "s2mlp_digits"
    with pytest.raises(ValueError, match="data.json cannot be read: .*No such file"):
        s2mlp_jax.load(tmp_path)
    folder.write_data({"train": 1, "class_names": []})
    with pytest.raises(ValueError, match="run on other data:\n  train: 1 there, 2 here\nPut"):
        folder.check_data({"train": 2})
    with pytest.raises(ValueError, match="There is no checkpoint 'latest' .*none saved"):
        s2mlp_jax.load(tmp_path)
    folder.config_file.write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read: Expecting"):
        read_study(tmp_path)


def test_files_are_written_whole(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1]})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == json.loads(path.read_text()) == {"a": [1]}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert Folder(tmp_path).starts_file("0/1").name == "starts.jsonl"
    assert Folder(tmp_path).starts_file("2/4").name == "starts-2-of-4.jsonl"
