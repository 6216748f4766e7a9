"""Runs trained as one program are the runs trained in turns, to float32 rounding."""

import json
import os
import pathlib
import re
import signal
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2mlp_jax.models import create_model, init
from s2mlp_jax.models.backbone import shift_variables
from s2mlp_jax.models.spatial_shift import (
    BORDERS,
    PATTERNS,
    directions_of_channels,
    shift_channels,
    spatial_shift,
)
from s2mlp_jax.sweep import run as sweep_lib
from s2mlp_jax.sweep import vectorize
from s2mlp_jax.sweep.settings import open_sweep
from s2mlp_jax.train.experiment import Experiment
from tests.helpers import ROOT, TINY, read_lines, read_state

SHIFT = str(ROOT / "configs/ablation_shift.py")
FEW_SAVES = {**TINY, "checkpoint.every_epochs": 0.08}
SHORT = {**FEW_SAVES, "train.steps": 4}


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pattern", [*PATTERNS, "up-left+stay+down"])
def test_the_pattern_as_data_is_the_pattern(pattern: str, border: str) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 19))
    directions = jnp.asarray(directions_of_channels(pattern, 19))
    expected = spatial_shift(x, pattern, border)
    np.testing.assert_array_equal(shift_channels(x, directions, border), expected)


def test_a_model_takes_its_pattern_as_data() -> None:
    other, own = (create_model("s2mlp_digits", 10, shift=s, depth=2) for s in ("a", "e"))
    variables = init(own, jax.random.key(0), 8, 1)
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    expected = own.apply(variables, images, train=False)
    shift = shift_variables(own.variant)
    got = other.apply({**variables, "shift": shift}, images, train=False)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.abs(other.apply(variables, images, train=False) - expected).max() > 1e-3


def test_together_equals_in_turns(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture) -> None:
    """Patterns and seeds in one program; every line and every array of four runs."""
    sweep = open_sweep(SHIFT, FEW_SAVES, seeds=2, only="b,none")
    assert sweep_lib.run_sweep(sweep, tmp_path / "together", "on") == []
    assert "4 runs together, as one program" in capfd.readouterr().out
    assert sweep_lib.run_sweep(sweep, tmp_path / "turns", "off") == []
    for run in sweep.runs:
        one, other = (run.folder(tmp_path / name).path for name in ("together", "turns"))
        assert sorted(p.name for p in one.iterdir()) == sorted(
            p.name for p in other.iterdir() if p.name != "log.txt"
        )
        result, expected = (json.loads((f / "result.json").read_text()) for f in (one, other))
        assert (result["together"], expected["together"]) == (4, 1)
        ours, theirs = read_lines(one), read_lines(other)
        assert [line.keys() for line in ours] == [line.keys() for line in theirs]
        for line, expected in zip(ours, theirs, strict=True):
            for name, value in expected.items():
                tolerance = 3e-3 if "accuracy" in name else 1e-4  # an image of 360 may change sides
                assert line[name] == pytest.approx(value, rel=1e-4, abs=tolerance), name
        state, expected_state = read_state(one), read_state(other)
        assert state.keys() == expected_state.keys()
        for name, array in expected_state.items():
            if "nu" not in name:
                np.testing.assert_allclose(state[name], array, atol=2e-4, err_msg=name)
    results = [
        json.loads(run.folder(tmp_path / "together").result_file.read_text()) for run in sweep.runs
    ]
    assert [result["seed"] for result in results] == [0, 1] * 2
    assert len({result["evaluation"]["eval/loss"] for result in results}) == 4


def test_interrupted_and_continued(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = open_sweep(SHIFT, FEW_SAVES, seeds=2, only="e")
    sweep_lib.run_sweep(sweep, tmp_path / "whole", "on")
    evaluate = Experiment.evaluate

    def kill(run: Experiment, state: typing.Any) -> dict[str, float]:
        monkeypatch.setattr(Experiment, "evaluate", evaluate)
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(run, state)

    monkeypatch.setattr(Experiment, "evaluate", kill)
    with pytest.raises(sweep_lib.Stopped, match=r"2 runs together: Stopped at step \d of 12"):
        sweep_lib.run_sweep(sweep, tmp_path / "stopped", "on")
    sweep_lib.run_sweep(sweep, tmp_path / "stopped", "on")
    for run in sweep.runs:
        stopped, whole = (run.folder(tmp_path / name).path for name in ("stopped", "whole"))
        assert read_lines(stopped) == read_lines(whole)
        state = read_state(stopped)
        for name, array in read_state(whole).items():
            np.testing.assert_array_equal(state[name], array, err_msg=name)


def test_one_that_fails_leaves_the_others(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    sweep = open_sweep(SHIFT, SHORT, seeds=3, only="a")
    draw = Experiment.draw_state

    def draw_one_bad(run: Experiment) -> typing.Any:
        state = draw(run)
        if run.config.seed == 1:
            return state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
        return state

    monkeypatch.setattr(Experiment, "draw_state", draw_one_bad)
    failed = sweep_lib.run_sweep(sweep, tmp_path, "on")
    assert [(run.setting, run.seed) for run in failed] == [("a", 1)]
    failure = json.loads((tmp_path / "a/1/failure.json").read_text())
    assert failure["kind"] == "nan"
    assert failure["error"].startswith("train/loss is nan at step 1")
    assert [(tmp_path / f"a/{i}/result.json").exists() for i in range(3)] == [True, False, True]
    assert "[2/3] a, seed 1: FAILED" in capfd.readouterr().out


def test_what_cannot_be_one_program_is_trained_in_turns(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    depth = open_sweep(str(ROOT / "configs/ablation_depth.py"), seeds=1)
    assert sweep_lib._alike(depth.runs, tmp_path) == []

    def too_much(*_: typing.Any) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    monkeypatch.setattr(sweep_lib, "train_vectorized", too_much)
    sweep = open_sweep(SHIFT, SHORT, seeds=2, only="a")
    assert sweep_lib.run_sweep(sweep, tmp_path, "on") == []
    output = capfd.readouterr().out
    assert "Together they failed (RESOURCE_EXHAUSTED: out of memory), so they are" in output
    assert "[2/2] a, seed 1: eval top-1" in output


def test_auto_is_off_on_a_cpu_and_measured_elsewhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    sweep = open_sweep(SHIFT, SHORT, seeds=2, only="a")
    sweep_lib.run_sweep(sweep, tmp_path / "cpu")
    assert "together" not in capfd.readouterr().out
    monkeypatch.setattr(sweep_lib.jax, "default_backend", lambda: "tpu")
    sweep_lib.run_sweep(sweep, tmp_path / "eight")  # in turns they use all devices
    assert "together" not in capfd.readouterr().out
    devices = jax.devices()[:1]
    monkeypatch.setattr(sweep_lib.jax, "devices", lambda: devices)
    for ratio, said in ((0.5, "2 runs one by one: .* 0.50 times"), (2.0, "2 runs together")):
        monkeypatch.setattr(sweep_lib, "speedup", lambda runs, ratio=ratio: ratio)
        sweep_lib.run_sweep(sweep, tmp_path / str(ratio))
        assert re.search(said, capfd.readouterr().out)


def test_speedup_is_a_ratio_of_the_same_work() -> None:
    sweep = open_sweep(SHIFT, SHORT, seeds=2, only="a")
    base = sweep.experiment(sweep.runs[0], jax.devices()[:1])
    ratio = vectorize.speedup([base.with_seed(0), base.with_seed(1)])
    assert 0.05 < ratio < 20
