"""Training from a config to a checkpoint, in one file."""

import contextlib
import pathlib
import time
from collections.abc import Sequence

import jax
import ml_collections

from s2mlp_jax import config as config_lib
from s2mlp_jax.cli import ExitCode
from s2mlp_jax.progress import Progress, say
from s2mlp_jax.saved.environment import changed_versions
from s2mlp_jax.saved.files import local_path
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train import describe
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.feed import Feed, make_feed, make_program
from s2mlp_jax.train.processes import end_if_process_lost
from s2mlp_jax.train.profile import Profile
from s2mlp_jax.train.recorder import RunRecorder
from s2mlp_jax.train.signals import StopRequest
from s2mlp_jax.train.state import TrainState
from s2mlp_jax.train.step_metrics import NonFiniteLossError


class Stopped(Exception):  # noqa: N818, it is not an error
    """The run was asked to stop; it saved a checkpoint first."""

    exit_code = ExitCode.STOPPED


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    devices: Sequence[jax.Device] | None = None,
    accept_changes: bool = False,
    profile: str = "",
) -> dict[str, float]:
    """Trains a run to the end, or resumes the run in the workdir.

    Args:
      config: see `configs/common.py`.
      workdir: folder for config, metrics and checkpoints; created if missing.
      devices: all devices by default.
      accept_changes: whether a resumed run may have another config (except the model) or other
        data than before; the changes are printed and recorded.
      profile: steps to profile, "100:105", into the folder `profile` of the workdir; see `Profile`.

    Returns:
      The metrics of the last evaluation.

    Raises:
      ValueError: if the config is bad, data are missing, the workdir holds another run, another
        process trains in it, or the steps to profile are not in the run.
      NonFiniteLossError: if the loss became NaN; the message names the step.
      Stopped: if the process was asked to stop; the run was saved.
      DiskError: if the disk is full, or a checkpoint cannot be read now; nothing was lost.
    """
    config = config_lib.complete(config)
    folder = RunFolder(local_path(workdir))
    to_profile = Profile(profile, folder.path / "profile")
    folder.check_config(config, accept_changes)
    run = create_experiment(config, devices)
    to_profile.check(folder.last_saved_step(), run.total_steps)
    return train(run, workdir, accept_changes=accept_changes, profile=to_profile)


def train(
    run: Experiment,
    workdir: str | pathlib.Path,
    program: jax.stages.Wrapped | None = None,
    accept_changes: bool = False,
    profile: Profile | None = None,
) -> dict[str, float]:
    """Does the same as `train_and_evaluate` for an existing experiment.

    Args:
      program: from `make_program`, for an experiment that differs at most in its seed; runs that
        are given the same one compile it once. Made here by default.
      accept_changes: as in `train_and_evaluate`.
      profile: the steps to profile; none by default.
    """
    folder = RunFolder(local_path(workdir))
    profile = profile or Profile("", folder.path)
    if not folder.last_saved_step():
        run.check_initial()  # before the folder is created
    alone = folder.locked() if jax.process_index() == 0 else contextlib.nullcontext()
    # A signal does not interrupt the reading of a checkpoint, as it might look damaged then.
    with alone, StopRequest() as stop:
        recorder = RunRecorder(run, folder, accept_changes=accept_changes)
        try:
            state = recorder.restore()
            if recorder.run.place != run.place:
                run, program = recorder.run, None
            for line in describe.start(run, recorder.record["step"]):
                say(line)
            if versions := changed_versions(recorder.record.get("versions", {})):
                say(f"Other versions than at the last checkpoint, so not bit for bit: {versions}")
            if recorder.record["step"] < run.total_steps:
                recorder.open_files()
                feed = make_feed(run, program or make_program(run), recorder.record["step"])
                _train(feed, state, recorder, stop, profile)
        except NonFiniteLossError as error:
            raise recorder.explain(error) from None
        except jax.errors.JaxRuntimeError as error:
            end_if_process_lost(error)  # at once: closing would wait for the lost process
            raise
        finally:
            recorder.close()
        last_eval = recorder.write_result()
    for line in describe.summary(run, last_eval, folder.path):
        say(line)
    return last_eval


def _train(
    feed: Feed, state: TrainState, recorder: RunRecorder, stop: StopRequest, profile: Profile
) -> None:
    """Trains from the recorder's step to the last one."""
    step, total_steps = recorder.record["step"], recorder.run.total_steps
    started = time.perf_counter()
    feed.compile(state)
    say(f"compiled  the training step in {time.perf_counter() - started:.1f} s")

    if stop.asked:
        raise Stopped(f"Stopped at step {step} of {total_steps}, before training.")

    progress = Progress(total_steps, step)
    recorder.start(progress, waited=lambda: feed.waited)

    # The loop allows only explicit transfers to and from the device.
    with feed, profile, jax.transfer_guard("disallow"):
        while step < total_steps:
            profile.reached(step + 1, state)
            most = profile.most_steps(step, feed.most)
            count = recorder.steps_to_event(step, most)
            state, metrics = feed.take(state, count)
            recorder.metrics.add(step + count, metrics, count)
            progress.advance(count)
            recorder.metrics.catch_up(step)  # late, while the device is busy with these steps

            step += count
            stopping = stop.reached(step)
            recorder.after_step(step, lambda: state, stopping)  # noqa: B023, it is called at once
            if step == total_steps:
                break
            if stopping:
                progress.close()
                raise Stopped(f"Stopped at step {step} of {total_steps}, which is saved.")
            try:
                feed.prepare(step)
            except ValueError:  # a broken image; the training up to here is saved
                if jax.process_count() == 1:  # otherwise all processes would have to save
                    recorder.save(step, state)
                raise
    progress.close()
    for line in describe.data_report(recorder.metrics):
        say(line)
