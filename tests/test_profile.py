"""Profiles of steps of the training loop."""

import gzip
import json
import pathlib
import re

import jax
import pytest

from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.profile import Profile
from tests.helpers import tiny_config
from tests.test_cli import DIGITS, main


@pytest.mark.parametrize(("steps", "profiled"), [("4:5", [4, 5]), ("12:12", [12])])
def test_a_profile_has_the_steps_asked_for_and_changes_no_number(
    steps: str, profiled: list[int], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    plain = train_and_evaluate(config, tmp_path / "plain", jax.devices()[:1])
    capsys.readouterr()
    result = train_and_evaluate(config, tmp_path / "run", jax.devices()[:1], profile=steps)
    assert result == plain
    assert f"profile   written to {tmp_path}/run/profile\n" in capsys.readouterr().out
    (file,) = (tmp_path / "run" / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    marks = {event["args"]["step_num"] for event in events if event.get("name") == "train"}
    assert marks == {str(step) for step in profiled}


@pytest.mark.parametrize("steps", ["5", "5:", ":5", "0:5", "6:5", "-1:5", "1:5:2", "a:b", "1.5:3"])
def test_malformed_steps_are_refused(steps: str, tmp_path: pathlib.Path) -> None:
    message = f"--profile must be the first and the last step, such as 100:105, got '{steps}'."
    with pytest.raises(ValueError, match=re.escape(message)):
        Profile(steps, tmp_path)


def test_steps_outside_the_run_are_refused_before_a_folder_is_made(
    tmp_path: pathlib.Path,
) -> None:
    message = (
        "--profile=12:13 is outside the run: after 0 of 12 steps, there are steps 1 to 12 left to "
        "train."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        train_and_evaluate(tiny_config(), tmp_path / "run", profile="12:13")
    assert not (tmp_path / "run").exists()
    profile = Profile("3:5", tmp_path)
    profile.check(2, 5)
    for done, total in ((3, 5), (4, 9), (2, 4), (9, 9)):
        with pytest.raises(ValueError, match="--profile=3:5 is outside the run"):
            profile.check(done, total)
    with pytest.raises(ValueError, match="after 9 of 9 steps, there is nothing left to train"):
        profile.check(9, 9)


@pytest.mark.slow
def test_mistakes_on_the_command_line(tmp_path: pathlib.Path) -> None:
    code, output = main(DIGITS, f"--workdir={tmp_path}/run", "--profile=5")
    assert (code, output.count("\n")) == (2, 1), output
    assert output.startswith("Error: --profile must be the first and the last step")
    code, output = main("--mode=eval", f"--workdir={tmp_path}/run", "--profile=1:5")
    assert (code, output) == (
        2,
        "Error: --profile is for training, and --mode=eval does not train.\n",
    )
