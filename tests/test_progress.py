"""Durations and sizes in words, and which process says what."""

import subprocess
import sys

import jax
import pytest

from s2mlp_jax.progress import duration, human_size, plural, say
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0254, "25.4 ms"),
        (1, "1 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (750, "12.5 min"),
        (12600, "3.5 h"),
        (86400 * 4.25, "4.25 days"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plural() -> None:
    assert [plural(n, "file") for n in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (671_016, "655 KiB"),
        (2**30, "1 GiB"),
        (147_897_477_120, "138 GiB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert human_size(count) == text


def test_other_processes_say_only_what_is_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    say("first")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    say("for all")
    say("of its own part", every_process=True)
    assert capsys.readouterr().out == "first\nof its own part\n"


def test_data_are_prepared_without_jax() -> None:
    code = (
        "import sys; sys.modules.update(jax=None, flax=None);"
        "import s2mlp_jax.data.prepare.__main__; from s2mlp_jax.progress import say; say('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
