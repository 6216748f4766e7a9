"""Runs a sweep: every setting of a config, for several seeds, in one process.

  python -m s2mlp_jax.sweep --config=configs/ablation_shift.py --workdir=/tmp/shift --seeds=3
  python -m s2mlp_jax.sweep --config=configs/ablation_shift.py:cifar10 --workdir=W --list
  python -m s2mlp_jax.sweep --config=... --workdir=W --only=a,none --config.train.epochs=5
  python -m s2mlp_jax.sweep --config=... --workdir=W --shard=0/8

A run is in WORKDIR/SETTING/SEED, a folder as main.py makes one. Stopped or killed, the same command
goes on where it was. Exit codes: 0 all done; 2 bad input; 4 some runs failed, the others are
done; 75 stopped by a signal and saved.
"""

import argparse
import contextlib
import itertools
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Sequence

from absl import logging

from s2mlp_jax import config as config_lib
from s2mlp_jax import describe
from s2mlp_jax import workdir as workdir_lib
from s2mlp_jax.metrics import read_metrics, training_seconds
from s2mlp_jax.progress import say
from s2mlp_jax.sweep_runs import Sweep, SweepRun, open_sweep
from s2mlp_jax.train import NonFiniteLossError, Stopped, make_train_step, train

EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED = 2, 4, 75


def run_sweep(sweep: Sweep, workdir: str | pathlib.Path) -> list[SweepRun]:
    """Trains what is not done yet of a sweep, a setting after the other.

    A run that fails leaves `failure.json` in its folder and does not stop the others. One whose
    loss became NaN would do so again, and is not repeated by another start; other failures are.

    Args:
      sweep: from `open_sweep`.
      workdir: gets a folder SETTING/SEED for each run, and `sweep.jsonl`.

    Returns:
      The runs that have failed.

    Raises:
      ValueError: the folder holds runs of another config; nothing is trained then.
      Stopped: the process was asked to stop, and the run at hand was saved.
    """
    started, workdir = time.perf_counter(), pathlib.Path(workdir).absolute()
    for run in sweep.runs:
        workdir_lib.check_config(run.folder(workdir), run.config)
    workdir.mkdir(parents=True, exist_ok=True)
    sweep.write_description(workdir)
    left = [run for run in sweep.runs if not _settled(run.folder(workdir))]
    say(f"{len(sweep.runs)} runs, {len(sweep.runs) - len(left)} of them done before")
    clock = _Clock(sum(run.cost for run in left))
    try:
        for _, runs in itertools.groupby(left, key=lambda run: run.setting):
            _train_setting(sweep, list(runs), workdir, clock)
    finally:
        _note_start(workdir, clock, time.perf_counter() - started)
    return [run for run in sweep.runs if (run.folder(workdir) / "failure.json").exists()]


def _train_setting(
    sweep: Sweep, runs: Sequence[SweepRun], workdir: pathlib.Path, clock: "_Clock"
) -> None:
    """Trains the seeds of one setting, which share data and compiled programs."""
    base = sweep.experiment(runs[0])
    step = make_train_step(base.config, base.model, base.optimizer, base.schedule, base.layout)
    for run in runs:
        folder, start = run.folder(workdir), time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.json").unlink(missing_ok=True)
        try:
            with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
                try:
                    evaluation = train(base.with_seed(run.seed), folder, step)
                except Exception:
                    traceback.print_exc(file=log)
                    raise
            figures = describe.eval_figures(evaluation)
        except Stopped as stopped:
            raise Stopped(f"{run.setting}, seed {run.seed}: {stopped}") from None
        except Exception as error:  # whatever it is, the other runs may do
            kind = "nan" if isinstance(error, NonFiniteLossError) else "error"
            text = str(error) or type(error).__name__
            workdir_lib.write_json(
                folder / "failure.json",
                {"kind": kind, "error": text, "setting": run.setting, "seed": run.seed},
            )
            figures = f"FAILED: {text.splitlines()[0]} ({folder / 'log.txt'})"
        clock.finished(run, folder, time.perf_counter() - start)
        number = 1 + sweep.runs.index(run)
        say(f"[{number}/{len(sweep.runs)}] {run.setting}, seed {run.seed}: {figures}  {clock}")


def _settled(folder: pathlib.Path) -> bool:
    """True for a run that is finished, or that would only fail again."""
    failure = folder / "failure.json"
    nan = failure.exists() and json.loads(failure.read_text())["kind"] == "nan"
    return nan or (folder / "result.json").exists()


class _Clock:
    """Time taken and time left, over the whole sweep.

    Attributes:
      runs: finished in this start.
      training: seconds of their training steps.
    """

    def __init__(self, cost: int) -> None:
        self.runs, self.training = 0, 0.0
        self._left, self._done, self._seconds, self._last = cost, 0, 0.0, 0.0

    def finished(self, run: SweepRun, folder: pathlib.Path, seconds: float) -> None:
        self.runs += 1
        self._left, self._done = self._left - run.cost, self._done + run.cost
        self._seconds, self._last = self._seconds + seconds, seconds
        self.training += training_seconds(
            read_metrics(folder / "metrics.jsonl"), run.config.train.batch_size
        )

    def __str__(self) -> str:
        """The last run's time, and what is left at the rate of all until now."""
        left = self._left * self._seconds / max(self._done, 1)
        return f"in {self._last:.1f} s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _note_start(workdir: pathlib.Path, clock: _Clock, seconds: float) -> None:
    """Adds a line on this start of the sweep to `starts.jsonl`."""
    line = {
        **workdir_lib.environment(),
        "runs": clock.runs,
        "seconds": seconds,
        "training_seconds": clock.training,
    }
    with (workdir / "starts.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sweep from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m s2mlp_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.FIELD=VALUE changes a field in all runs.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="a config with sweep()")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1")
    parser.add_argument("--only", default="", metavar="A,B", help="these settings alone")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="part I of N, from 0")
    parser.add_argument("--list", action="store_true", help="say what would run, and its cost")
    flags, rest = parser.parse_known_args(arguments)
    logging.set_verbosity(logging.ERROR)
    try:
        if unknown := [text for text in rest if not text.startswith("--config.")]:
            raise ValueError(f"Unknown arguments {' '.join(unknown)}.")
        sweep = open_sweep(
            flags.config,
            config_lib.parse_overrides(rest),
            seeds=flags.seeds,
            only=flags.only,
            shard=flags.shard,
        )
        if flags.list:
            for line in sweep.describe():
                say(line)
            return 0
        failed = run_sweep(sweep, flags.workdir)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Stopped as stopped:
        print(f"{stopped} Start the same command again to go on.", file=sys.stderr)
        return EXIT_STOPPED
    say(f"Next: python -m s2mlp_jax.report {flags.workdir}")
    if failed:
        names = ", ".join(f"{run.setting} seed {run.seed}" for run in failed)
        print(f"{len(failed)} runs failed: {names}.", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
