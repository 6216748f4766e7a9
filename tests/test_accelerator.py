"""`python -m benchmarks.accelerator`: its files, and what becomes of jobs that fail."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator import schedule
from benchmarks.accelerator.report import slug, text_of
from tests.helpers import ROOT


def test_the_command_writes_its_files(tmp_path: pathlib.Path) -> None:
    """The cheapest part, on a CPU; a part whose time is up is named."""
    arguments = ["--parts=products", f"--out={tmp_path}", "--batch_size=1"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.accelerator", *arguments],
        cwd=ROOT,
        check=True,
        timeout=600,
    )
    written = (tmp_path / "accelerator_cpu.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["part"] for line in lines] == ["device"] + ["products"] * 7
    assert all(line["forward, TFLOP/s"] > 0 for line in lines[1:])
    text = (tmp_path / "accelerator_cpu.md").read_text()
    assert "## Matrix products alone" in text
    assert "| 196 x 768 by 768 x 3072 |" in text


def test_a_folder_that_is_no_copy(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["accelerator", f"--against={tmp_path}"])
    with pytest.raises(SystemExit):
        command.main()
    assert "it has no s2mlp_jax" in capsys.readouterr().err


def test_a_job_that_takes_too_long_is_ended() -> None:
    with pytest.raises(command.JobError, match="more than 0 s"):
        list(command.run_job("device", "", "", 0.05))


def test_a_job_that_fails_shows_its_error() -> None:
    with pytest.raises(command.JobError, match="No module named") as caught:
        list(command.run_job("no_such_part", "", "{}", 600))
    assert "Traceback" in caught.value.log


def test_jobs_are_in_the_order_asked_for() -> None:
    options = schedule.options_for("gpu", 0, (), ("a", "b"))
    assert list(schedule.jobs(("loop", "against"), options))[:4] == [
        ("loop", "digits"),
        ("loop", "cifar"),
        ("against", "s2mlp_wide,a"),
        ("against", "s2mlp_deep,a"),
    ]
    assert schedule.Options.from_json(options.to_json()) == options
    with pytest.raises(ValueError, match="Unknown part 'step'. Allowed are against, products"):
        list(schedule.jobs(("step",), options))
    with pytest.raises(ValueError, match="needs --against=FOLDER"):
        list(schedule.jobs(("against",), schedule.options_for("gpu", 0, (), ())))


def test_figures_have_four_digits() -> None:
    figures = [1234.56, 0.012345, None, True, 0.0, float("nan"), 12]
    texts = ["1,235", "0.01235", "-", "True", "0.0", "nan", "12"]
    assert list(map(text_of, figures)) == texts
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia_h100_80gb_hbm3"
