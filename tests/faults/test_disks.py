"""Full and read-only disks, and paths that cannot be: one sentence, and nothing is lost."""

import os
import pathlib
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator

import pytest

from s2mlp_jax.cli import command
from s2mlp_jax.saved import disk_faults
from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.disk_faults import DiskError
from s2mlp_jax.saved.files import local_path
from tests.helpers import made_once, tiny_flags
from tests.test_checkpoint import a_state
from tests.test_cli import DIGITS, finish, main, start

# Root may write everywhere.
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A disk of 2 MiB; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def usage(free: int) -> typing.Callable[[object], typing.Any]:
    return lambda _: shutil._ntuple_diskusage(10**9, 10**9 - free, free)  # type: ignore[attr-defined]


def test_a_full_disk_is_noticed_before_a_save(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, a_state(1), {"step": 1})
    monkeypatch.setattr(disk_faults.shutil, "disk_usage", usage(10))
    with pytest.raises(DiskError, match=r"The disk of .* is full: 10 B are free, 1 MiB are"):
        checkpoints.save(2, a_state(2), {"step": 2})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1]


def test_a_save_that_fails_is_noticed_at_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the next save: `check` is called after each step."""
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", lambda: None)
    error = ValueError("RESOURCE_EXHAUSTED: Error writing: No space left [os_error_code='28']")
    checkpoints.save(1, a_state(1), {"step": 1})
    monkeypatch.setattr(checkpoints._manager, "is_saving_in_progress", lambda: False)

    def fail() -> None:
        raise error

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
    with pytest.raises(DiskError, match="is full"):
        checkpoints.check()


@pytest.mark.slow
def test_a_run_on_a_full_disk(small_disk: pathlib.Path) -> None:
    """It keeps its last checkpoint, says so in a line, and goes on when there is room."""
    flags = tiny_flags(train__steps=30, checkpoint__keep=30, log__every_steps=30)
    code, output = main(DIGITS, f"--workdir={small_disk}/run", *flags)
    assert code == 75, output
    assert "The last complete checkpoint was kept. Make room. Start the same command" in output
    assert len(output.splitlines()) < 40, output
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    code, output = main(DIGITS, f"--workdir={small_disk}/run", *flags)
    assert code == 0, output


@pytest.mark.slow
def test_a_folder_of_someone_else() -> None:
    """Training there is refused in a line; what is read-only can be evaluated."""

    def train(workdir: pathlib.Path) -> None:
        code, output = main(DIGITS, f"--workdir={workdir}/run", *tiny_flags())
        assert code == 0, output

    python = [*NOBODY, sys.executable, "-c", ""]
    if not os.geteuid() and not shutil.which("setpriv"):
        pytest.skip("becoming another user needs setpriv")
    if not os.geteuid() and subprocess.run(python, capture_output=True, check=False).returncode:
        pytest.skip("another user cannot start this Python")
    folder = made_once("of_someone_else", train)
    if os.geteuid():
        folder.chmod(0o555)
        (folder / "run").chmod(0o555)
    for parent in (folder, *folder.parents):
        if parent.stat().st_mode & 5 != 5:
            parent.chmod(parent.stat().st_mode | 5)
    shared = {"HOME": "/tmp", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    for arguments, code, message in (
        ([DIGITS, f"--workdir={folder}/new", *tiny_flags()], 2, "/new: Permission denied."),
        ([DIGITS, f"--workdir={folder}/run", *tiny_flags()], 2, "/run/.lock: Permission denied."),
        (["--mode=eval", f"--workdir={folder}/run"], 0, "eval.jsonl was not extended: Permission"),
    ):
        got, output = finish(start(*arguments, before=() if os.geteuid() else NOBODY, **shared))
        assert got == code, output
        assert message in output
        assert "Traceback" not in output


def test_paths_that_cannot_be_folders(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, message in {
        "": "path is empty",
        " ": "path is empty",
        str(file): f"{file} is a file, not a folder",
        str(file / "run"): f"{file}/run is below the file {file}",
        "x" * 300: "File name too long",
        "gs://bucket/run": "gs://bucket/run is not a local folder",
        "s3://bucket/run": "is not a local folder",
        "gs:/bucket/run": "is not a local folder",
    }.items():
        with pytest.raises(ValueError, match=message):
            local_path(path)
    assert local_path("~/x") == pathlib.Path.home() / "x"
    assert local_path("x") == pathlib.Path.cwd() / "x"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device", "/x/metrics.jsonl"), 75, "/x/metrics.jsonl: No"),
        (OSError(28, "No space left on device"), 75, "A file that is being written: No space"),
        (PermissionError(13, "Permission denied", "/x"), 2, "Error: /x: Permission denied."),
        (OSError(30, "Read-only file system", "/x"), 2, "Error: /x: Read-only file system."),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_errors_of_the_system_are_one_line(
    capsys: pytest.CaptureFixture, error: BaseException, code: int, message: str
) -> None:
    @command
    def fail() -> int:
        raise error

    assert fail() == code
    assert message in (said := capsys.readouterr().err)
    assert len(said.splitlines()) == 1


def test_a_missing_file_is_still_a_bug() -> None:
    @command
    def fail() -> int:
        raise FileNotFoundError(2, "No such file or directory", "/x")

    with pytest.raises(FileNotFoundError):
        fail()
