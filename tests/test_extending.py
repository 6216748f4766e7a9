"""docs/extending.md does what it says: its files and its commands, as they stand but shorter."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from s2mlp_jax.cli import parse_overrides
from s2mlp_jax.config import load_config
from s2mlp_jax.export.__main__ import main as export_main
from s2mlp_jax.models import mixers
from s2mlp_jax.predict import main as predict_main
from s2mlp_jax.probe import main as probe_main
from s2mlp_jax.report.__main__ import main as report_main
from s2mlp_jax.sweep.__main__ import main as sweep_main
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.visualize.cli import main as visualize_main
from tests.helpers import ROOT, exit_code, tiny_flags
from tests.test_cli import environment

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/extending.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^    (python .*)$", PAGE, re.M)]
MODULES = {
    "s2mlp_jax.sweep": sweep_main,
    "s2mlp_jax.report": report_main,
    "s2mlp_jax.probe": probe_main,
    "s2mlp_jax.export": export_main,
    "s2mlp_jax.visualize": visualize_main,
}
# Little to compile: one block, no average, no accumulation.
SHORT = tiny_flags(
    model__depth=1, train__steps=4, train__accumulation_steps=1, train__ema_decay=0.0
)


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The page's files in a folder of the user's own, with images."""
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.S):
        (tmp_path / name).write_text(text)
    rng = np.random.RandomState(0)
    for split in ("train", "val"):
        for kind in ("bright", "dark"):
            images = tmp_path / "my_images" / split / kind
            images.mkdir(parents=True)
            for i in range(24):
                pixels = rng.randint(0, 128, (8, 8)) + 127 * (kind == "bright")
                Image.fromarray(pixels.astype(np.uint8)).save(images / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    before = dict(mixers.MIXERS)
    yield tmp_path
    mixers.MIXERS.clear()
    mixers.MIXERS.update(before)


def start(command: list[str]) -> None:
    """Runs one of the page's commands."""
    program, *arguments = command
    if program == "-m":
        module, *arguments = arguments
        assert exit_code(MODULES[module], arguments) == 0, command
        return
    assert program == "main.py"
    flags = dict(a.removeprefix("--").split("=", 1) for a in arguments if "--config." not in a)
    changes = parse_overrides([a for a in arguments if "--config." in a], "--config.")
    path = (
        str(ROOT / flags["config"]) if flags["config"].startswith("configs/") else flags["config"]
    )
    train_and_evaluate(
        load_config(path, {**parse_overrides(SHORT, "--config."), **changes}), flags["workdir"]
    )


def test_a_mixer_of_ones_own_from_training_to_the_report(
    folder: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    train, evaluate, sweep, measure, report, *use = COMMANDS[:8]
    for command in (train, evaluate):  # as a user starts them
        done = subprocess.run(
            [sys.executable, str(ROOT / command[0]), *command[1:], *SHORT],
            env=environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    start(sweep + SHORT)
    start(measure + SHORT)
    start(report)
    text = (folder / "runs/rolls/report/report.md").read_text()
    assert "roll-2" in text
    result = json.loads((folder / "runs/rolls/roll-2/0/result.json").read_text())
    assert np.isfinite(result["evaluation"]["eval/loss"])
    for command in use:
        start(command)
    assert (folder / "roll/model.safetensors").exists()

    # Without its file a mixer is not known, and the message says how it becomes known.
    del mixers.MIXERS["roll"]
    capsys.readouterr()
    image = str(next((folder / "my_images/val/dark").glob("*.png")))
    assert exit_code(predict_main, ["roll", image]) == 2
    said = capsys.readouterr().err
    assert "mixer 'roll' is unknown. Allowed are shift, " in said
    assert "docs/extending.md" in said
    assert exit_code(predict_main, ["roll", image, "--import=my_mixer.py"]) == 0
    assert exit_code(predict_main, ["roll", image, "--import=nowhere.py"]) == 2


def test_the_other_commands_of_the_page(folder: pathlib.Path) -> None:
    assert len(COMMANDS) == 11  # all of the page's are run here or above
    for command in COMMANDS[8:]:
        start(command)
    assert (folder / "diagonal.png").stat().st_size > 1000
    for run in ("diagonal", "mine"):
        assert (folder / "runs" / run / "result.json").exists()
