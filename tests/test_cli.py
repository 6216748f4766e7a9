"""Real commands in processes of their own: what a user types, kills, and starts again."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import pytest

from tests.helpers import ROOT, assert_same_run, made_once, read_lines, read_state, tiny_flags

pytestmark = pytest.mark.slow

DIGITS = "--config=configs/s2mlp_digits.py"
# A run that can be stopped half-way; saving takes most of the time of a tiny run.
LONGER = tiny_flags(train__steps=120, checkpoint__every_epochs=0.3, eval__every_epochs=0.4)
# A run for several devices: wide enough for its kernels to be cut.
SEVERAL = tiny_flags(model__dim=64, train__steps=40, checkpoint__every_epochs=0.1)


def environment(devices: int = 1, **extra: str) -> dict[str, str]:
    """Returns the tests' own variables, but for the number of devices and what is named."""
    count = "--xla_force_host_platform_device_count="
    return {
        **os.environ,
        "XLA_FLAGS": re.sub(rf"{count}\d+", f"{count}{devices}", os.environ["XLA_FLAGS"]),
        "PYTHONWARNINGS": "error::DeprecationWarning:s2mlp_jax,"
        "ignore:Error reading persistent compilation cache entry",  # see pyproject.toml
        **extra,
    }


def start(*arguments: str, before: Sequence[str] = (), **keywords) -> subprocess.Popen:  # noqa: ANN003
    return subprocess.Popen(
        [*before, sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env=environment(**keywords),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def main(*arguments: str, **keywords) -> tuple[int, str]:  # noqa: ANN003
    return finish(start(*arguments, **keywords))


def wait_for(process: subprocess.Popen, pattern: str) -> str:
    """Reads a process's output up to the first line that matches; fails if it ends before."""
    assert process.stdout is not None
    seen = ""
    guard = threading.Timer(900, process.kill)
    guard.start()
    try:
        for line in process.stdout:
            seen += line
            if re.search(pattern, line):
                return seen
    finally:
        guard.cancel()
    pytest.fail(f"no line matches {pattern!r} in:\n{seen}")


def test_digits_reach_their_accuracy(tmp_path: pathlib.Path) -> None:
    """One seed of the README's promise; results/ has three. Without a shift it does not work.

    A sixth of the epochs is enough for the run without a shift to learn what it can.
    """
    shifted = start(DIGITS, f"--workdir={tmp_path}/a", XLA_FLAGS="")
    none = ["--config.model.shift=none", "--config.train.epochs=5"]
    still = start(DIGITS, f"--workdir={tmp_path}/none", *none, XLA_FLAGS="")
    accuracy = {}
    for name, process in (("a", shifted), ("none", still)):
        code, output = finish(process)
        assert code == 0, output
        last = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["eval/count"] == 360
        accuracy[name] = last["eval/accuracy_top1"]
        assert f"Files: {tmp_path}/{name}" in output
        assert list((tmp_path / name).glob("events.out.tfevents.*"))
    assert accuracy["a"] >= 0.97
    assert accuracy["none"] <= 0.6


@pytest.fixture(scope="module")
def whole_run() -> pathlib.Path:
    """A tiny run never stopped."""

    def train(workdir: pathlib.Path) -> None:
        code, output = main(DIGITS, f"--workdir={workdir}", *LONGER)
        assert code == 0, output

    return made_once("whole_run", train)


def test_sigkill_at_any_moment_changes_nothing(
    whole_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Killed before the first checkpoint, and right in the midst of saving later ones."""
    command = [DIGITS, f"--workdir={tmp_path}", *LONGER]
    moments: list[Callable[[subprocess.Popen], object]] = [
        lambda process: wait_for(process, "compiled"),
        lambda process: wait_for(process, r"^step 60/"),
        lambda process: wait_for_half_a_checkpoint(process, tmp_path),
    ]
    for moment in moments:
        with start(*command) as process:
            moment(process)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    # The last one compiles anew, as all do outside the tests: to the same bits.
    code, output = main(*command, JAX_ENABLE_COMPILATION_CACHE="false")
    assert code == 0, output
    assert "resume    from step" in output
    assert_same_run(whole_run, tmp_path)


def wait_for_half_a_checkpoint(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    """Returns while a checkpoint is being written; fails if the run ends before."""
    wait_for(process, "compiled")
    while process.poll() is None:
        if list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")):
            return
    pytest.fail("the run ended before a checkpoint was seen in writing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_own_code(
    whole_run: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    """Checkpoints are far apart here, so what is saved is saved because of the signal."""
    flags = [*LONGER, "--config.checkpoint.every_epochs=50.0"]
    process = start(DIGITS, f"--workdir={tmp_path}", *flags)
    wait_for(process, r"^step 30/")
    process.send_signal(number)
    code, output = finish(process)
    assert code == 75, output
    stopped_at = int(re.search(r"Stopped at step (\d+) of 120, which is saved", output)[1])  # type: ignore[index]
    assert read_state(tmp_path)["(step)"] == stopped_at
    code, output = main(DIGITS, f"--workdir={tmp_path}", *flags)
    assert code == 0, output
    assert f"resume    from step {stopped_at}\n" in output
    assert_same_run(whole_run, tmp_path)


def start_two_processes(workdir: pathlib.Path, *flags: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = [DIGITS, f"--workdir={workdir}", *flags, f"--coordinator=localhost:{port}"]
    return [start(*shared, "--num_processes=2", f"--process_id={i}") for i in range(2)]


def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(tmp_path: pathlib.Path) -> None:
    flags = tiny_flags(train__steps=5000, checkpoint__every_epochs=100.0, eval__every_epochs=100.0)
    both = start_two_processes(tmp_path, *flags)
    wait_for(both[0], r"^step 30/")
    both[1].send_signal(signal.SIGTERM)
    for code, output in map(finish, both):
        assert code == 75, output
        assert re.search(r"Stopped at step \d+ of 5000, which is saved", output)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def run_on_one_device() -> pathlib.Path:
    """A run that others, on several devices or in processes, are compared with."""

    def train(workdir: pathlib.Path) -> None:
        code, output = main(DIGITS, f"--workdir={workdir}", *SEVERAL)
        assert code == 0, output

    return made_once("one_device", train)


def test_one_device_and_two_processes(tmp_path: pathlib.Path) -> None:
    """test_train has eight devices; test_parallel a state that is cut over two processes."""
    both = start_two_processes(tmp_path, *SEVERAL)
    for code, output in map(finish, both):
        assert code == 0, output
    expected, lines = read_lines(run_on_one_device()), read_lines(tmp_path)
    assert len(lines) == len(expected)
    for line, reference in zip(lines, expected, strict=True):
        assert line.keys() == reference.keys()
        assert line["step"] == reference["step"]
        for figure in ("train/loss", "eval/loss", "eval_ema/loss"):
            if figure in reference:
                assert line[figure] == pytest.approx(reference[figure], rel=1e-5), line


def test_evaluation_of_a_workdir(whole_run: pathlib.Path) -> None:
    last = json.loads((whole_run / "metrics.jsonl").read_text().splitlines()[-1])
    code, output = main("--mode=eval", f"--workdir={whole_run}")
    assert code == 0, output
    assert f"top-1 {last['eval/accuracy_top1']:.2%}" in output
    flags = tiny_flags(train__steps=120, data__image_size=16)
    code, output = main("--mode=eval", f"--workdir={whole_run}", DIGITS, *flags)
    assert code == 0, output
    assert "16x16 pixels" in output
    results = (whole_run / "eval.jsonl").read_text().splitlines()
    # The same by one override of the run's own config.
    code, output = main("--mode=eval", f"--workdir={whole_run}", "--config.data.image_size=16")
    assert code == 0, output
    assert "Differs from training: data.image_size: 8 there, 16 here" in output
    again = json.loads((whole_run / "eval.jsonl").read_text().splitlines()[-1])
    assert {**again, "time": ""} == {**json.loads(results[-1]), "time": ""}
    code, output = main("--mode=eval", f"--workdir={whole_run}", "--config.data.image_sice=16")
    assert code == 2, output
    assert re.search("no field 'data.image_sice'. Allowed there: .*image_size", output), output
    code, output = main("--mode=eval", "--workdir=/nowhere", "--config.data.image_size=16")
    assert code == 2, output
    assert "There is no folder /nowhere; the folder of a run is expected." in output
    assert "Traceback" not in output


def test_training_runs_without_tensorflow(tmp_path: pathlib.Path) -> None:
    """Where nothing was prepared and no home can be written to; importing it is an error."""
    blocked = tmp_path / "blocked"
    for name in ("tensorflow", "tensorboard"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ModuleNotFoundError(__name__)\n")
    nowhere = {"TFDS_DATA_DIR": "/dev/null/data", "HOME": "/dev/null"}
    code, output = main(
        DIGITS, f"--workdir={tmp_path}/run", *tiny_flags(), PYTHONPATH=str(blocked), **nowhere
    )
    assert code == 0, output
    assert "from scikit-learn" in output
    assert "tensorboard" not in output  # there are no events to look at


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config.model.shfit=e"], 2, "Allowed there: .*shift"),
        (["--config.model.depth=x"], 2, "config.model.depth is of type int, got 'x'"),
        (["--config.model.shift=q"], 2, "Unknown shift pattern 'q'.*Allowed are a, b"),
        (
            ["--config.train.batch_size=30"],
            2,
            "train.batch_size 30 cannot be divided over 4 devices",
        ),
        (["--config.data.name=mnist"], 2, "'mnist' is not prepared in"),
        (["--config=configs/nope.py"], 2, "no config file configs/nope.py"),
        (["--mode=tarin"], 2, "tarin"),
        (["stray"], 2, "Unknown arguments stray"),
        (["--num_processes=2", "--process_id=1"], 2, "--coordinator=host:port.* go together"),
        (
            ["--config.optimizer.learning_rate=1e30", "--config.optimizer.warmup_epochs=0.0"],
            3,
            r"train/\w+ is \w+ at step \d+",
        ),
    ],
)
def test_mistakes_get_one_line_and_their_code(
    arguments: list[str], code: int, message: str, tmp_path: pathlib.Path
) -> None:
    got, output = main(DIGITS, f"--workdir={tmp_path}/run", *arguments, devices=4)
    assert got == code, output
    assert re.search(message, output), output
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "metrics.jsonl").exists() or code == 3


def test_models_table_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "s2mlp_jax.models"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "72,241,384" in done.stdout
