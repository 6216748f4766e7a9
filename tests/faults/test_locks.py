"""One process writes to a folder at a time; a dead one blocks nobody."""

import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

from s2mlp_jax.data.prepare.workspace import alone_with
from s2mlp_jax.lock import LockedError, locked
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.sweep.__main__ import main as sweep_main
from s2mlp_jax.train import train_and_evaluate
from tests.helpers import ROOT, exit_code, tiny_config, tiny_flags

HOLD = """
import pathlib, sys
from s2mlp_jax.lock import locked
with locked(pathlib.Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: pathlib.Path) -> None:
    file = tmp_path / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(LockedError, match=f"is training in x now: .*, process {holder.pid}."),
            locked(file, "training in x"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(file, "training in x"):  # it is stale, and taken over
        assert file.read_text().endswith(f"process {os.getpid()}")


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(tmp_path: pathlib.Path) -> None:
    config = tiny_config(train__steps=2, optimizer__warmup_epochs=0.0)
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(LockedError, match=f"Another process is training in {tmp_path} now"),
    ):
        train_and_evaluate(config, tmp_path, jax.devices()[:1])
    assert os.listdir(tmp_path) == [".lock"]


def test_a_second_preparation_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "digits").mkdir()
    with (
        locked(tmp_path / ".digits.lock", "preparing"),
        pytest.raises(LockedError, match=f"is preparing {tmp_path}/digits now"),
        alone_with(tmp_path / "digits"),
    ):
        pass


def test_a_shard_started_twice(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    """The same shard is refused; of an overlapping one, the runs that are being trained are."""
    command = [
        f"--config={ROOT}/configs/ablation_shift.py:digits",
        f"--workdir={tmp_path}",
        "--only=a,e",
    ]
    command += ["--seeds=1", *tiny_flags(train__steps=2, optimizer__warmup_epochs=0.0)]
    with locked(tmp_path / ".lock-0-of-1", "training"):
        assert exit_code(sweep_main, command) == 2
    assert "is training shard 0/1 of" in capsys.readouterr().err
    with RunFolder(tmp_path / "a/0").locked():
        assert exit_code(sweep_main, command) == 0
    assert "Skipped: a, seed 0. Another process is training in" in capsys.readouterr().out
    assert not (tmp_path / "a/0/failure.json").exists()
    assert (tmp_path / "e/0/result.json").exists()


def test_where_there_are_no_locks_work_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an error of the work is not taken for one of the disk."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(KeyError) as found, locked(tmp_path / ".lock", "training"):
        raise KeyError
    assert found.value.__context__ is None
