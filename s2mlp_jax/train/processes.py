"""The processes of one run: how they find each other, and how they end when one is lost.

The services of jax end a process with SIGABRT if it cannot reach the others, which no code in the
process can change. So each process of a run with several is started by a parent, which turns that
into a message and an exit code that a scheduler requeues on.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import types
import typing

import jax

from s2mlp_jax.cli import ExitCode
from s2mlp_jax.progress import say

_CHILD = "S2MLP_JAX_CHILD"  # set in the environment of a child
_SECONDS_TO_CONNECT = 45
_SECONDS_BETWEEN_HEARTBEATS = 30  # at most, or a process is taken for dead
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_ENDED = (
    "A process of the run cannot be reached any more, or did not start: see the lines above. "
    "What was saved is kept. Start the same commands again to go on; each number from 0 to "
    "--num_processes - 1 must be the --process_id of one process."
)


class LostProcessError(Exception):
    """Another process of the run ended or cannot be reached."""

    exit_code = ExitCode.STOPPED


def run_in_child() -> int | None:
    """Runs this command again in a child process, and passes signals on to it.

    Returns:
      The exit code of the child, `ExitCode.STOPPED` if it was aborted; None in the child itself.
    """
    if os.environ.get(_CHILD):
        return None
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _CHILD: "1"},
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        start_new_session=True,  # the terminal's Ctrl-C would reach it twice
    )

    def pass_on(number: int, _: types.FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = child.wait()
    if code == -signal.SIGABRT:
        print(_ENDED, file=sys.stderr, flush=True)
        return ExitCode.STOPPED
    return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def start_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the processes of one run; call it once, before any other use of jax.

    Args:
      coordinator: None for a run of one process; "host:port" of process 0; or "auto" where the
        cluster (TPU pod, SLURM, Open MPI) provides all settings.
      num_processes: number of processes; only with "host:port".
      process_id: index of this process, from 0; only with "host:port".

    Raises:
      ValueError: if the three arguments do not fit together.
      LostProcessError: if process 0 cannot be reached.
    """
    timeout: dict[str, typing.Any] = {"heartbeat_timeout_seconds": _SECONDS_BETWEEN_HEARTBEATS}
    if coordinator in (None, "auto"):
        if (num_processes, process_id) != (None, None):
            raise ValueError(_TOGETHER)
        if coordinator == "auto":
            jax.distributed.initialize(**timeout)
        return
    if num_processes is None or process_id is None:
        raise ValueError(_TOGETHER)
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id must be from 0 to --num_processes - 1 = {num_processes - 1}, got "
            f"{process_id}."
        )
    assert coordinator is not None
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"--coordinator must be host:port or auto, got {coordinator!r}.")
    if process_id:
        _wait_for(host, int(port))
    jax.distributed.initialize(coordinator, num_processes, process_id, **timeout)


_TOGETHER = (
    "--coordinator=host:port, --num_processes and --process_id go together; --coordinator=auto and "
    "a run of one process take neither of the last two."
)


def _wait_for(host: str, port: int) -> None:
    """Waits until process 0 listens; jax would abort after five minutes."""
    began = time.monotonic()
    while True:
        try:
            socket.create_connection((host.strip("[]"), port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() - began > _SECONDS_TO_CONNECT:
                raise LostProcessError(
                    f"Process 0 does not answer at --coordinator={host}:{port}: {error.strerror}."
                ) from error
        time.sleep(0.5)


def end_if_process_lost(error: jax.errors.JaxRuntimeError) -> None:
    """Ends this process at once if an exception means that another one was lost.

    At a normal end jax would wait for the lost one. A lost process shows as a broken connection in
    a sum over the devices.
    """
    if jax.process_count() == 1:
        return
    text = str(error)
    if any(word in text for word in ("onnection", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")):
        first_line = text.splitlines()[0][:200]
        say(f"{first_line}\n{_ENDED}", every_process=True)
        os._exit(ExitCode.STOPPED)
