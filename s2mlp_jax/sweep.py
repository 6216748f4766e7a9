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
import concurrent.futures
import contextlib
import itertools
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence

import jax
from absl import logging

from s2mlp_jax import config as config_lib
from s2mlp_jax import describe
from s2mlp_jax import workdir as workdir_lib
from s2mlp_jax.experiment import Experiment
from s2mlp_jax.metrics import read_metrics, training_seconds
from s2mlp_jax.progress import say
from s2mlp_jax.sweep_runs import Sweep, SweepRun, open_sweep
from s2mlp_jax.together import shapes_key, speedup, train_together
from s2mlp_jax.train import NonFiniteLossError, Stopped, make_train_step, train

EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED = 2, 4, 75


def run_sweep(sweep: Sweep, workdir: str | pathlib.Path, vectorize: str = "auto") -> list[SweepRun]:
    """Trains what is not done yet of a sweep, a setting after the other.

    A run that fails leaves `failure.json` in its folder and does not stop the others. One whose
    loss became NaN would do so again, and is not repeated by another start; other failures are.

    Args:
      sweep: from `open_sweep`.
      workdir: gets a folder SETTING/SEED for each run, and `sweep.jsonl`.
      vectorize: "on" trains the runs whose arrays have the same shapes as one program, "off" all
        in turns, "auto" as is quicker here: in turns on a CPU, elsewhere it is measured.

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
    start = _Start(sweep, workdir, sum(run.cost for run in left))
    try:
        if vectorize == "on" or (vectorize == "auto" and jax.default_backend() != "cpu"):
            for group in _alike(left, workdir):
                _train_group(start, group, measure=vectorize == "auto")
        left = [run for run in left if not _settled(run.folder(workdir))]
        settings = [list(runs) for _, runs in itertools.groupby(left, lambda run: run.setting)]
        with concurrent.futures.ThreadPoolExecutor(1, "compile") as pool:
            ahead = [pool.submit(_prepare, sweep, runs[0]) for runs in settings[:1]]
            for i, runs in enumerate(settings):
                prepared = ahead.pop()
                ahead = [pool.submit(_prepare, sweep, runs[0]) for runs in settings[i + 1 : i + 2]]
                _train_setting(start, runs, prepared)
    finally:
        start.note(time.perf_counter() - started)
    return [run for run in sweep.runs if (run.folder(workdir) / "failure.json").exists()]


_Prepared = tuple[Experiment, jax.stages.Wrapped]


def _prepare(sweep: Sweep, run: SweepRun) -> _Prepared:
    """Compiles the training step of a setting, while the one before it is trained."""
    base = sweep.experiment(run)
    step = make_train_step(base.config, base.model, base.optimizer, base.schedule, base.layout)
    with contextlib.suppress(Exception):  # the training meets it again, and records it
        step.lower(*base.abstract_step_arguments()).compile()
    return base, step


def _train_setting(
    start: "_Start", runs: Sequence[SweepRun], prepared: "concurrent.futures.Future[_Prepared]"
) -> None:
    """Trains the seeds of one setting in turns; they share data and compiled programs."""
    for run in runs:
        folder, began = start.folder(run), time.perf_counter()
        outcome: dict[str, float] | Exception
        try:
            with _log_to(folder / "log.txt"):
                base, step = prepared.result()
                outcome = train(base.with_seed(run.seed), folder, step)
        except Stopped as stopped:
            raise Stopped(f"{run.setting}, seed {run.seed}: {stopped}") from None
        except Exception as error:  # whatever it is, the other runs may do
            outcome = error
        start.finished(run, outcome, time.perf_counter() - began)


def _train_group(start: "_Start", runs: Sequence[SweepRun], measure: bool) -> None:
    """Trains runs as one program, if that is quicker; if it fails they are left for turns."""
    one_device = jax.devices()[:1]
    bases = {run.setting: start.sweep.experiment(run, one_device) for run in runs}
    experiments = [bases[run.setting].with_seed(run.seed) for run in runs]
    began = time.perf_counter()
    try:
        if measure and (ratio := speedup(experiments)) < 1:
            say(f"{len(runs)} runs in turns: together they would train {ratio:.2f} times as fast")
            return
        say(f"{len(runs)} runs together, as one program")
        with _log_to(start.workdir / "log.txt"):
            outcomes = train_together(experiments, [start.folder(run) for run in runs])
    except Stopped as stopped:
        raise Stopped(f"{len(runs)} runs together: {stopped}") from None
    except Exception as error:  # out of memory above all
        say(f"Together they failed ({_first_line(error)}), so they are trained in turns.")
        return
    seconds = (time.perf_counter() - began) / len(runs)
    for run, outcome in zip(runs, outcomes, strict=True):
        start.finished(run, outcome, seconds)


def _alike(runs: Sequence[SweepRun], workdir: pathlib.Path) -> list[list[SweepRun]]:
    """Groups of at least two runs that can be one program: same shapes, left at the same step."""
    groups: dict[tuple[str, int], list[SweepRun]] = {}
    for run in runs:
        saved = (run.folder(workdir) / "checkpoints").glob("*")
        step = max((int(path.name) for path in saved if path.name.isdigit()), default=0)
        groups.setdefault((shapes_key(run.config), step), []).append(run)
    return [group for group in groups.values() if len(group) > 1]


@contextlib.contextmanager
def _log_to(path: pathlib.Path) -> Iterator[None]:
    """Sends what is printed to a file, and a traceback if there is one."""
    with path.open("a") as log, contextlib.redirect_stdout(log):
        try:
            yield
        except Stopped:
            raise
        except Exception:
            traceback.print_exc(file=log)
            raise


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _settled(folder: pathlib.Path) -> bool:
    """True for a run that is finished, or that would only fail again."""
    failure = folder / "failure.json"
    nan = failure.exists() and json.loads(failure.read_text())["kind"] == "nan"
    return nan or (folder / "result.json").exists()


class _Start:
    """One start of a sweep: tells and records how each run went, and the time that is left."""

    def __init__(self, sweep: Sweep, workdir: pathlib.Path, cost: int) -> None:
        self.sweep, self.workdir = sweep, workdir
        self._runs, self._training = 0, 0.0
        self._left, self._done, self._seconds = cost, 0, 0.0

    def folder(self, run: SweepRun) -> pathlib.Path:
        """Returns a run's folder, which is there, and without an earlier failure."""
        folder = run.folder(self.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.json").unlink(missing_ok=True)
        return folder

    def finished(
        self, run: SweepRun, outcome: dict[str, float] | Exception, seconds: float
    ) -> None:
        """Takes a run's last evaluation, or why it failed."""
        folder = run.folder(self.workdir)
        if isinstance(outcome, Exception):
            kind = "nan" if isinstance(outcome, NonFiniteLossError) else "error"
            error = str(outcome) or type(outcome).__name__
            workdir_lib.write_json(
                folder / "failure.json",
                {"kind": kind, "error": error, "setting": run.setting, "seed": run.seed},
            )
            figures = f"FAILED: {_first_line(outcome)} ({folder / 'log.txt'})"
        else:
            figures = describe.eval_figures(outcome)
        lines = read_metrics(folder / "metrics.jsonl")
        self._training += training_seconds(lines, run.config.train.batch_size)
        self._runs, self._seconds = self._runs + 1, self._seconds + seconds
        self._left, self._done = self._left - run.cost, self._done + run.cost
        left = self._left * self._seconds / self._done  # at the rate of all until now
        number = 1 + self.sweep.runs.index(run)
        say(
            f"[{number}/{len(self.sweep.runs)}] {run.setting}, seed {run.seed}: {figures}  "
            f"in {seconds:.1f} s, {_duration(left)} left"
        )

    def note(self, seconds: float) -> None:
        """Adds a line on this start to `starts.jsonl`."""
        line = {
            **workdir_lib.environment(),
            "runs": self._runs,
            "seconds": seconds,
            "training_seconds": self._training,
        }
        with (self.workdir / "starts.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


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
    parser.add_argument(
        "--vectorize",
        choices=["auto", "on", "off"],
        default="auto",
        help="train runs of the same shapes as one program; auto: if that is quicker",
    )
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
        failed = run_sweep(sweep, flags.workdir, flags.vectorize)
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
