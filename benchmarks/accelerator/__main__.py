"""Measures the device of this machine, the most important figures first.

    python -m benchmarks.accelerator
    python -m benchmarks.accelerator --parts=products,steps --models=s2mlp_wide --batch_size=256
    python -m benchmarks.accelerator --parts=against --against=../another_copy

PyTorch and data sets are optional: a part whose packages are missing is skipped, and the report
names the packages. Each job runs in its own process with its own time limit. Every figure is
printed and written at once, to accelerator_<device>.md and .jsonl. Takes ten minutes on one GPU,
in bfloat16 at 512 images per step. On a CPU the sizes are small: the figures show that all parts
work, and little else.
"""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from benchmarks.accelerator import schedule
from benchmarks.accelerator.report import Report, line_of
from benchmarks.accelerator.schedule import PARTS, Record

ROOT = pathlib.Path(__file__).resolve().parents[2]
_LEAST = 5.0  # minimum seconds left to start a job


class JobError(Exception):
    """A job failed or took too long.

    Attributes:
      log: the last lines of its stderr.
    """

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


def run_job(part: str, name: str, options: str, limit: float) -> Iterator[Record]:
    """Yields the records of a job as it prints them; this process does not use the device.

    Raises:
      JobError: if the job fails or takes longer than `limit` seconds.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.accelerator.job", part, name, options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # to kill its child processes with it
            # Allocate GPU memory on demand, up to 95 % of it.
            env={
                "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
                **os.environ,
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            },
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield json.loads(line)
            code = process.wait()
        finally:
            timer.cancel()
            _kill(process)
            process.communicate()
        log.seek(0)
        lines = [line.rstrip() for line in log.read().splitlines() if line.strip()]
    if late.is_set():
        raise JobError(f"it took more than {limit:.0f} s", "\n".join(lines[-30:]))
    if code:
        raise JobError(lines[-1] if lines else f"exit code {code}", "\n".join(lines[-60:]))


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def header(device: Record, options: schedule.Options) -> list[str]:
    """Returns the lines with command, commit, time, device and settings."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    versions = {k: v for k, v in device.items() if k not in ("name", "platform")}
    command = shlex.join(["python", "-m", "benchmarks.accelerator", *sys.argv[1:]])
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    small = ", small sizes that say nothing of an accelerator" if options.on_cpu else ""
    depth = f", at most {options.depth} block per stage" if options.depth else ""
    return [
        f"Command: `{command}`",
        f"Commit: {commit or 'unknown'}, {now}",
        f"Device: {', '.join(f'{k} {v}' for k, v in versions.items() if v is not None)}",
        f"{options.dtype}, {options.batch_size} images of 224x224 per step{depth}{small}; medians "
        f"over {options.rounds} rounds",
        f"XLA_FLAGS: {os.environ.get('XLA_FLAGS') or '(none)'}",
    ]


def main() -> None:
    """Runs the jobs one after the other until the time is up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", default="", help=f"parts to measure, in order; default {','.join(PARTS)}"
    )
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="time limit of all parts; default 600"
    )
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results", metavar="FOLDER")
    parser.add_argument(
        "--batch_size", type=int, default=0, help="images per step; default 512, on a CPU 2"
    )
    parser.add_argument(
        "--models", default="", help="variants for the parts steps, torch and against"
    )
    parser.add_argument(
        "--against",
        default="",
        metavar="FOLDER",
        help="other copies of the source, for the part against",
    )
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    parts, models, against = (
        tuple(part for part in text.split(",") if part)
        for text in (args.parts, args.models, args.against)
    )
    against = tuple(str(pathlib.Path(folder).resolve()) for folder in against)
    for folder in against:
        if not (pathlib.Path(folder) / "s2mlp_jax").is_dir():
            parser.error(f"--against: {folder} is no copy of this repository: it has no s2mlp_jax.")
    try:
        list(schedule.jobs(parts, schedule.options_for("cpu", 1, models, against)))
    except ValueError as error:
        parser.error(str(error))

    # SIGTERM raises SystemExit, so that the running job is killed too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    try:
        (device,) = run_job("device", "", "", args.seconds)
    except JobError as error:
        print(error.log, file=sys.stderr)
        raise SystemExit(f"jax finds no device: {error}") from None
    options = schedule.options_for(str(device["platform"]), args.batch_size, models, against)
    lines = header(device, options)
    report = Report(args.out, device, lines)
    print("\n".join([str(device["name"]), *lines]), flush=True)

    skipped = set()
    for part, name in schedule.jobs(parts, options):
        left = end - time.monotonic()
        if packages := schedule.missing(part):
            if part not in skipped:
                report.remark(part, "", f"needs {', '.join(packages)}")
                print(f"{part}: skipped, it needs {', '.join(packages)}", flush=True)
            skipped.add(part)
            continue
        if left < _LEAST:
            report.remark(part, name, "no time was left (--seconds)")
            print(f"{part}: {name or '-'}: no time is left", flush=True)
            continue
        try:
            for record in run_job(
                part, name, options.to_json(), min(schedule.limit(part, options), left)
            ):
                report.add(part, record)
                print(line_of(part, record), flush=True)
        except JobError as error:
            report.remark(part, name, str(error), error.log)
            print(f"{part}: {name or '-'}: {error}", flush=True)
    print(f"Written: {report.path} and {report.path.with_suffix('.jsonl').name}", flush=True)


if __name__ == "__main__":
    main()
