"""A run's small files may be damaged or lost: what can be rebuilt is rebuilt, and said."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import typing

import jax
import pytest

from s2mlp_jax.config import FREE_FIELDS
from s2mlp_jax.report.__main__ import main as report_main
from s2mlp_jax.saved.environment import changed_versions
from s2mlp_jax.saved.files import Folder
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.sweep.progress import is_settled, read_failure
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.restore import evaluate_workdir
from tests.helpers import ROOT, assert_same_run, made_once, read_lines, tiny_config

# Nothing that takes long to compile.
SMALL: dict[str, typing.Any] = {"model__depth": 1, "train__accumulation_steps": 1}


def train(workdir: pathlib.Path, accept_changes: bool = False, **fields: typing.Any) -> None:
    config = tiny_config(**SMALL, **fields)
    train_and_evaluate(config, workdir, jax.devices()[:1], accept_changes=accept_changes)


@pytest.fixture(scope="module")
def whole() -> pathlib.Path:
    return made_once("whole_of_side_files", train)


@pytest.fixture
def half(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The same run as if it had been killed before its last checkpoint."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    shutil.rmtree(workdir / "checkpoints" / str(last))
    (workdir / "result.json").unlink()
    return workdir


DAMAGE = {"emptied": b"", "cut": None, "not JSON": b"\x00\xff{", "a list": b"[]", "nothing": b"{}"}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["config.json", "data.json", "environment.json"])
def test_a_damaged_file_is_rebuilt(
    whole: pathlib.Path,
    half: pathlib.Path,
    capsys: pytest.CaptureFixture,
    name: str,
    damage: str,
) -> None:
    content = DAMAGE[damage]
    file = half / name
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    train(half)
    assert_same_run(whole, half)
    assert f"{file}" in capsys.readouterr().out
    assert json.loads(file.read_text()).keys() == json.loads((whole / name).read_text()).keys()


def test_evaluation_needs_no_config_file(half: pathlib.Path) -> None:
    (half / "config.json").write_text("{")
    assert evaluate_workdir(half)["eval/count"] == 360


def test_a_config_that_was_never_completed_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text('{"model": {')
    train(tmp_path, train__steps=2, optimizer__warmup_epochs=0.0)
    assert RunFolder(tmp_path).kind == "run"


@pytest.mark.parametrize("damage", ["deleted", "cut", "garbage"])
def test_lost_metrics_are_reported(
    whole: pathlib.Path, half: pathlib.Path, capsys: pytest.CaptureFixture, damage: str
) -> None:
    file, step = half / "metrics.jsonl", Folder(half).last_saved_step()
    lines = file.read_text().splitlines(keepends=True)
    if damage == "deleted":
        file.unlink()
    elif damage == "cut":
        file.write_text("".join(lines[:1]))
    else:
        file.write_text("".join([lines[0][:10], "\n", '{"a": 1}\n', *lines[1:]]))
    train(half)
    expected = [line for line in read_lines(whole) if line["step"] > step]
    assert [line for line in read_lines(half) if line["step"] > step] == expected
    lost = len(read_lines(whole)) - len(read_lines(half))
    assert lost >= 1
    noun = "line" if lost == 1 else "lines"
    assert (
        f"metrics.jsonl misses {lost} {noun} of the steps up to {step}" in capsys.readouterr().out
    )
    assert json.loads((half / "environment.json").read_text())["lost_metrics_lines"] == lost


def test_versions_of_packages_that_are_not_recorded_any_more() -> None:
    assert "an_old_package 1.0 -> not recorded" in changed_versions({"an_old_package": "1.0"})


def test_free_fields_may_change_and_are_recorded(
    half: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    fields = {"data__on_corrupt": "skip", "log__every_steps": 1, "checkpoint__every_epochs": 1.0}
    train(half, **fields)
    said = capsys.readouterr().out
    assert "changed   data.on_corrupt: 'stop' there, 'skip' here" in said
    recorded = json.loads((half / "environment.json").read_text())
    assert len(recorded["changes"]) == 3
    assert recorded["earlier"][0]["changes"] == []
    assert json.loads((half / "config.json").read_text())["data"]["on_corrupt"] == "skip"


def test_other_changes_are_accepted_only_on_purpose(half: pathlib.Path) -> None:
    longer: dict[str, typing.Any] = {"train__steps": 15, "optimizer__learning_rate": 1e-3}
    with pytest.raises(ValueError, match="another config") as refused:
        train(half, **longer)
    for advice in ("--accept_changes", f"--config.init_from={half}", "another --workdir"):
        assert advice in str(refused.value)
    train(half, accept_changes=True, **longer)
    assert read_lines(half)[-1]["step"] == 15
    changes = json.loads((half / "environment.json").read_text())["changes"]
    assert changes == [
        "optimizer.learning_rate: 0.002 there, 0.001 here",
        "train.steps: 12 there, 15 here",
    ]
    train(half, **longer)  # now its own
    with pytest.raises(ValueError, match=r"another config:\n  model.shift"):
        train(half, accept_changes=True, model__shift="e", **longer)


def test_other_data_are_accepted_only_on_purpose(half: pathlib.Path) -> None:
    fewer = {"data__train_split": "train[:1000]"}
    with pytest.raises(ValueError, match="another config"):
        train(half, **fewer)
    train(half, accept_changes=True, **fewer)
    recorded = json.loads((half / "data.json").read_text())
    assert recorded["train"]["images"] == 1000
    recorded["class_names"][0] = "another"
    (half / "data.json").write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=r"other data:\n  class_names") as refused:
        train(half, accept_changes=True, **fewer)
    assert "--accept_changes" not in str(refused.value)


def test_a_result_wins_over_a_failure(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    folder = Folder(tmp_path / "run")
    folder.failure_file.write_text('{"kind": "nan", "error": "train/loss is nan at step 3"}')
    assert is_settled(folder)
    assert read_failure(folder) is None
    folder.result_file.write_text("")  # damaged: the run is finished again from its checkpoint
    folder.failure_file.unlink()
    assert not is_settled(folder)
    folder.failure_file.write_text("{")
    assert not is_settled(folder)


def test_the_report_tells_what_was_lost_and_changed(
    half: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (half / "metrics.jsonl").unlink()
    train(half, data__on_corrupt="skip")
    assert report_main([str(half)]) == 0
    runs = (half / "report" / "runs.csv").read_text()
    assert "metrics.jsonl lost" in runs
    assert "changed data.on_corrupt: 'stop' there, 'skip' here" in runs
    (half / "result.json").write_text("{")
    (half / "failure.json").write_text("[]")
    capsys.readouterr()
    assert report_main([str(half)]) == 0
    said = capsys.readouterr().out
    assert f"Left out of the report: {half}/result.json" in said
    assert f"Left out of the report: {half}/failure.json" in said
    (half / "config.json").write_text("{}")
    assert report_main([str(half)]) == 2


def test_free_fields_are_marked_where_they_are_defined() -> None:
    text = (ROOT / "configs/common.py").read_text()
    marked = re.findall(r"^    (?:config\.)?(\w+\.\w+) = .*\[free\]$", text, re.M)
    assert sorted(marked) == sorted(FREE_FIELDS)


def test_files_are_utf_8_in_any_locale(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run(
        [sys.executable, "-m", "s2mlp_jax.report", str(whole), f"--output={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, **ascii_only},
        check=True,
    )
    assert "±" in (tmp_path / "report.md").read_text(encoding="utf-8")
