"""Signals, and the processes of one run: all end soon, with a sentence and a code."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from s2mlp_jax.train import processes
from s2mlp_jax.train.processes import LostProcessError, start_processes
from s2mlp_jax.train.signals import StopRequest
from tests.helpers import tiny_flags
from tests.test_cli import DIGITS, finish, main, start, start_two_processes, wait_for

LONG = tiny_flags(train__steps=100_000, checkpoint__every_epochs=1e4, eval__every_epochs=1e4)
# nohup, and a shell that starts something in the background, let it ignore these signals.
HEARD = ("env", "--default-signal=HUP,INT")


@pytest.mark.slow
def test_a_hangup_saves_and_a_second_interrupt_ends_at_once(tmp_path: pathlib.Path) -> None:
    process = start(DIGITS, f"--workdir={tmp_path}", *LONG, before=HEARD)
    wait_for(process, r"^step 30/")
    process.send_signal(signal.SIGHUP)
    code, output = finish(process)
    assert code == 75, output
    stopped_at = int(re.search(r"Stopped at step (\d+) of", output)[1])  # type: ignore[index]
    assert os.listdir(tmp_path / "checkpoints") == [str(stopped_at)]
    # An interrupt while it starts, before anything is there to be saved.
    process = start(DIGITS, f"--workdir={tmp_path}", *LONG, before=HEARD)
    wait_for(process, "^resume")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code in (75, 130), output
    assert "Traceback" not in output
    assert os.listdir(tmp_path / "checkpoints") == [str(stopped_at)]


@pytest.mark.slow
def test_an_interrupt_before_training_prints_no_traceback() -> None:
    process = start("--mode=plan", DIGITS, "--devices=8", before=HEARD)
    wait_for(process, "^model")
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert output.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in output


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            assert stop.reached(3)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_process_is_killed_the_other_ends_and_both_go_on(
    tmp_path: pathlib.Path, killed: int
) -> None:
    """Process 0 holds the services that the others need. A minute is allowed; it takes seconds."""
    both = start_two_processes(tmp_path, *LONG)
    wait_for(both[0], r"^step 30/")
    both[killed].send_signal(signal.SIGKILL)
    other, _ = both[1 - killed].communicate(timeout=60)
    assert both[1 - killed].returncode == 75, other
    assert "A process of the run cannot be reached any more" in other
    assert "Traceback" not in other
    assert finish(both[killed])[0] == -signal.SIGKILL
    if killed:
        both = start_two_processes(tmp_path, *LONG)
        wait_for(both[0], r"^step 6/")
        both[0].send_signal(signal.SIGINT)  # in one of them: both save
        for code, output in map(finish, both):
            assert code == 75, output
            assert re.search(r"Stopped at step \d+ of \d+, which is saved", output)
        assert len(os.listdir(tmp_path / "checkpoints")) == 1


def test_an_aborted_child_is_a_sentence_and_a_code(capfd: pytest.CaptureFixture) -> None:
    """jax aborts where it cannot reach the others."""
    program = (
        "import os, sys\n"
        "from s2mlp_jax.train import processes\n"
        "code = processes.run_in_child()\n"
        "if code is None:\n"
        "    os.abort() if sys.argv[1] == 'abort' else sys.exit(int(sys.argv[1]))\n"
        "sys.exit(code)\n"
    )
    for argument, code in (("abort", 75), ("0", 0), ("3", 3)):
        done = subprocess.run([sys.executable, "-c", program, argument], check=False)
        assert done.returncode == code
    assert "A process of the run cannot be reached any more" in capfd.readouterr().err


def test_processes_that_do_not_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in {
        ("localhost:1", 2, 2): "--process_id must be from 0 to --num_processes - 1 = 1, got 2",
        ("localhost:1", 2, -1): "--process_id must be from 0 to",
        ("localhost:1", 2, None): "go together",
        ("auto", 2, None): "go together",
        (None, None, 1): "go together",
        ("localhost", 2, 1): "--coordinator must be host:port or auto, got 'localhost'",
    }.items():
        with pytest.raises(ValueError, match=message):
            start_processes(*arguments)
    monkeypatch.setattr(processes, "_SECONDS_TO_CONNECT", 0)
    with pytest.raises(LostProcessError, match=r"Process 0 does not answer at --coordinator=local"):
        start_processes("localhost:1", 2, 1)


@pytest.mark.slow
def test_a_mistake_with_processes_is_one_line(tmp_path: pathlib.Path) -> None:
    flags = ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"]
    code, output = main(DIGITS, f"--workdir={tmp_path}/run", *flags)
    assert code == 2, output
    assert output.count("\n") == 1
