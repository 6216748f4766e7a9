"""Runs the settings of a sweep one after another, or runs of equal shapes as one program."""

import concurrent.futures
import contextlib
import itertools
import pathlib
import threading
import time
import traceback
from collections.abc import Iterator, Sequence

import jax

from s2mlp_jax.lock import LockedError, locked
from s2mlp_jax.progress import say
from s2mlp_jax.saved.files import Folder, local_path
from s2mlp_jax.sweep.progress import Failure, SweepProgress, is_settled, read_failure
from s2mlp_jax.sweep.settings import Sweep, SweepRun
from s2mlp_jax.sweep.vectorize import shapes_key, speedup, train_vectorized
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.feed import abstract_arguments, make_program
from s2mlp_jax.train.loop import Stopped, train
from s2mlp_jax.train.signals import StopRequest
from s2mlp_jax.train.step_metrics import NonFiniteLossError


def run_sweep(sweep: Sweep, workdir: str | pathlib.Path, vectorize: str = "auto") -> list[SweepRun]:
    """Trains the unfinished runs of a sweep, one setting after another.

    A run that fails leaves `failure.json` in its folder and does not stop the others. If its loss
    became NaN it would fail again, so another start skips it; other failures are repeated. A run
    that another process is training is skipped.

    Args:
      sweep: from `open_sweep`.
      workdir: gets a folder SETTING/SEED for each run, and `sweep.jsonl`.
      vectorize: "on" trains the runs whose arrays have the same shapes as one program, "off" all
        one by one; "auto" measures both on a single accelerator, and is "off" elsewhere.

    Returns:
      The runs that have failed.

    Raises:
      ValueError: if the folder holds runs of another config; nothing is trained then.
      LockedError: if another process is training the same part of the sweep.
      Stopped: if the process was asked to stop; the current run was saved.
    """
    workdir = local_path(workdir)
    for run in sweep.runs:
        run.folder(workdir).check_config(run.config)
    sweep.write_description(workdir)
    lock = Folder(workdir).shard_lock_file(sweep.shard)
    with locked(lock, f"training shard {sweep.shard} of {workdir}"):
        return _run_sweep(sweep, workdir, vectorize)


def _run_sweep(sweep: Sweep, workdir: pathlib.Path, vectorize: str) -> list[SweepRun]:
    began = time.perf_counter()
    left = runs_left(sweep, workdir)
    say(f"{len(sweep.runs)} runs, {len(sweep.runs) - len(left)} of them done before")
    progress = SweepProgress(sweep, workdir, left)
    accelerator = jax.default_backend() != "cpu" and len(jax.devices()) == 1
    try:
        with StopRequest() as stop:
            if vectorize == "on" or (vectorize == "auto" and accelerator):
                for group in _alike(left, workdir):
                    _check(stop, progress)
                    _train_group(progress, group, measure=vectorize == "auto")
            left = runs_left(sweep, workdir)
            settings = [list(runs) for _, runs in itertools.groupby(left, lambda run: run.setting)]
            ahead = [_prepare(sweep, runs[0]) for runs in settings[:1]]
            for i, runs in enumerate(settings):
                prepared = ahead.pop()
                ahead = [_prepare(sweep, runs[0]) for runs in settings[i + 1 : i + 2]]
                _train_setting(progress, runs, prepared, stop)
    finally:
        progress.close(time.perf_counter() - began)
    return [run for run in sweep.runs if read_failure(run.folder(workdir))]


def runs_left(sweep: Sweep, workdir: pathlib.Path) -> list[SweepRun]:
    """Returns the runs that are neither finished nor would fail again."""
    return [run for run in sweep.runs if not is_settled(run.folder(workdir))]


_Prepared = tuple[Experiment, jax.stages.Wrapped]


def _prepare(sweep: Sweep, run: SweepRun) -> "concurrent.futures.Future[_Prepared]":
    """Compiles the training step of a setting, while the previous one is trained."""
    prepared: concurrent.futures.Future[_Prepared] = concurrent.futures.Future()

    def work() -> None:
        try:
            base = sweep.experiment(run)
            program = make_program(base)
            if jax.default_backend() != "gpu":  # autotuning there would take memory
                with contextlib.suppress(Exception):  # training raises it again
                    program.lower(*abstract_arguments(base)).compile()
            prepared.set_result((base, program))
        except Exception as error:
            prepared.set_exception(error)

    # A daemon, not a pool: a stop must not wait for a compilation.
    threading.Thread(target=work, name="compile", daemon=True).start()
    return prepared


def _check(stop: StopRequest, progress: SweepProgress) -> None:
    """Stops between two runs, if a stop was requested while no run was training."""
    if stop.reached(0):
        raise Stopped(f"Stopped after {progress.runs} runs of this start, which are saved.")


def _train_setting(
    progress: SweepProgress,
    runs: Sequence[SweepRun],
    prepared: "concurrent.futures.Future[_Prepared]",
    stop: StopRequest,
) -> None:
    """Trains the seeds of one setting one by one; they share data and compiled programs."""
    for run in runs:
        _check(stop, progress)
        folder, began = progress.open_folder(run), time.perf_counter()
        outcome: dict[str, float] | Failure
        try:
            with _log_to(folder.log_file):
                base, program = prepared.result()
                outcome = train(base.with_seed(run.seed), folder.path, program)
        except Stopped as stopped:
            raise Stopped(f"{run.setting}, seed {run.seed}: {stopped}") from None
        except LockedError as error:  # by another shard that has this run too
            say(f"Skipped: {run.setting}, seed {run.seed}. {error}")
            continue
        except Exception as error:  # whatever it is, the other runs may succeed
            outcome = Failure.of(error)  # not the error itself, which would keep the run's arrays
        progress.finished(run, outcome, time.perf_counter() - began)


def _train_group(progress: SweepProgress, runs: Sequence[SweepRun], measure: bool) -> None:
    """Trains runs as one program, if that is faster; if it fails, they are trained one by one."""
    began, failed = time.perf_counter(), ""
    try:
        experiments = progress.sweep.experiments(runs, jax.devices()[:1])
        if measure and (ratio := speedup(experiments)) < 1:
            say(f"{len(runs)} runs one by one: together they would train {ratio:.2f} times as fast")
            return
        say(f"{len(runs)} runs together, as one program")
        with _log_to(progress.folder.log_file):
            outcomes = train_vectorized(
                experiments, [progress.open_folder(run).path for run in runs]
            )
    except Stopped as stopped:
        raise Stopped(f"{len(runs)} runs together: {stopped}") from None
    except Exception as error:  # mostly out of memory
        failed = Failure.of(error).first_line
    if failed:
        say(f"Together they failed ({failed}), so they are trained one by one.")
        return
    seconds = (time.perf_counter() - began) / len(runs)
    for run, outcome in zip(runs, outcomes, strict=True):
        said = Failure.of(outcome) if isinstance(outcome, NonFiniteLossError) else outcome
        progress.finished(run, said, seconds, runs_per_program=len(runs))


def _alike(runs: Sequence[SweepRun], workdir: pathlib.Path) -> list[list[SweepRun]]:
    """Groups two or more runs that can be one program: same shapes, same last saved step."""
    groups: dict[tuple[str, int], list[SweepRun]] = {}
    for run in runs:
        step = run.folder(workdir).last_saved_step()
        groups.setdefault((shapes_key(run.config), step), []).append(run)
    return [group for group in groups.values() if len(group) > 1]


@contextlib.contextmanager
def _log_to(path: pathlib.Path) -> Iterator[None]:
    """Redirects printed output to a file, and adds a traceback if there is one."""
    with path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        try:
            yield
        except Stopped:
            raise
        except Exception:
            traceback.print_exc(file=log)
            raise
