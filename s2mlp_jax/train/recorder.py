"""Records a run in its folder while it is trained: metrics, evaluations, checkpoints, result."""

import copy
import typing
from collections.abc import Callable

import jax

from s2mlp_jax import config as config_lib
from s2mlp_jax.data.resident import Place
from s2mlp_jax.progress import Progress, plural, say
from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.environment import versions, write_environment
from s2mlp_jax.saved.files import write_json
from s2mlp_jax.saved.metrics import MetricsWriter, judged_by
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train import describe
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.state import TrainState
from s2mlp_jax.train.step_metrics import NonFiniteLossError, StepMetrics


class RunRecorder:
    """Records what happens in a run, and restores the run from its last checkpoint.

    Attributes:
      record: contents of a checkpoint besides the state, as JSON.
      metrics: metrics of the training steps; set by `start`.
    """

    metrics: StepMetrics

    def __init__(
        self,
        run: Experiment,
        folder: RunFolder,
        runs_per_program: int = 1,
        accept_changes: bool = False,
    ) -> None:
        """Opens the folder, which exists and is locked.

        Args:
          runs_per_program: number of runs that are trained as one program and share its time.
          accept_changes: whether the config (except the model) and the data may have changed.

        Raises:
          ValueError: if the folder is of a run with another config, or its data have changed.
        """
        data = run.describe_data()
        self._changes = folder.check_config(run.config, accept_changes)
        self._changes += folder.check_data(data, accept_changes)
        for change in self._changes:
            say(f"changed   {change}")
        self.run, self.folder, self._runs_per_program = run, folder, runs_per_program
        self._primary = jax.process_index() == 0
        if self._primary:
            folder.write_config(run.config)
            folder.write_data(data)
        self._checkpoints = Checkpoints(folder.path, run.options.checkpoint.keep)
        self._writer: MetricsWriter | None = None
        self.record: dict[str, typing.Any] = {
            "step": 0,
            "unwritten": {},
            "corrupt_images": 0,
            "last_eval": {},
            "best_score": -1.0,
            "data_place": "device" if run.place.on_device else "host",
        }

    def restore(self) -> TrainState:
        """Returns the state of the last checkpoint, or the initial state if there is none.

        The images are then where they were when the run began: `self.run` may have changed.
        """
        restored = self._checkpoints.restore_latest(like=self.run.abstract_state())
        if restored is None:
            return self.run.draw_state()
        state, self.record = restored
        on_device = self.record.setdefault("data_place", "host") == "device"
        if on_device != self.run.place.on_device:
            if on_device and jax.process_count() > 1:
                raise ValueError(
                    f"The run in {self.folder.path} began with its images in device memory "
                    "(data.place), where several processes cannot go on. Start one process."
                )
            place = "in device memory" if on_device else "on the host"
            self.run = self.run.placed(Place(on_device, f"{place}, as when the run began"))
        return state

    def steps_to_event(self, step: int, most: int) -> int:
        """Returns the number of steps after `step` until something is to be done, up to `most`."""
        for count in range(1, most):
            if self._line_due(step + count) or any(self.due(step + count, stopping=False)):
                return count
        return most

    def _line_due(self, step: int) -> bool:
        return step % self.run.options.log.every_steps == 0 or step == self.run.total_steps

    def start(self, progress: Progress, waited: Callable[[], float]) -> None:
        """Starts the clock of the training steps; `waited` is as in `StepMetrics`."""
        run, options = self.run, self.run.options
        self._progress = progress

        def write_line(step: int, averages: dict[str, float]) -> None:
            averages = {"epoch": step / run.steps_per_epoch, **averages}
            if (mfu := run.mfu(averages["images_per_second"])) is not None:
                averages["mfu"] = mfu
            if self._writer:
                lines = {f"train/{name}": value for name, value in averages.items()}
                self._writer.write(step, lines)
            progress.note(step, describe.train_figures(averages))

        self.metrics = StepMetrics(
            write_line,
            is_due=self._line_due,
            images_per_step=options.train.batch_size,
            start_step=self.record["step"],
            unwritten=self.record["unwritten"],
            corrupt_images=self.record["corrupt_images"],
            waited=waited,
        )

    def open_files(self) -> None:
        """Opens the files that training appends to, and records the environment.

        Raises:
          DiskError: if the disk has no room for a checkpoint.
        """
        if self._primary:
            self._checkpoints.check_room(self.run.abstract_state())
            step = self.record["step"]
            self._writer = MetricsWriter(self.folder.path, step, self.run.options.log.tensorboard)
            # Checkpoints of earlier versions did not count the lines.
            lost = self.record.get("metrics_lines", 0) - self._writer.lines
            if lost > 0:
                say(
                    f"{self.folder.metrics_file} misses {plural(lost, 'line')} of the steps up to "
                    f"{step}: it was cut, damaged or deleted."
                )
            write_environment(
                self.folder, step, changes=self._changes, lost_metrics_lines=max(lost, 0)
            )

    def due(self, step: int, stopping: bool) -> tuple[bool, bool]:
        """Returns whether to evaluate and whether to save after a step."""
        evaluating = self.run.is_due(step, self.run.options.eval.every_epochs)
        saving = stopping or self.run.is_due(step, self.run.options.checkpoint.every_epochs)
        return evaluating, saving

    def after_step(self, step: int, state: Callable[[], TrainState], stopping: bool) -> None:
        """Evaluates and saves after a step, if due; always saves if the run is stopping.

        Args:
          state: returns the state; called only if something is due.

        Raises:
          DiskError: if the last checkpoint could not be saved.
        """
        self._checkpoints.check()
        evaluating, saving = self.due(step, stopping)
        if not (evaluating or saving):
            return
        with self.metrics.paused(step), jax.transfer_guard("allow"):
            score = None
            if evaluating:
                self.record["last_eval"] = self.run.evaluate(state())
                last_eval = self.record["last_eval"]
                score = last_eval[f"{judged_by(last_eval)}/accuracy_top1"]
                if self._writer:
                    self._writer.write(step, self.record["last_eval"])
                self._progress.tell(step, describe.eval_figures(self.record["last_eval"]))
                if score > self.record["best_score"]:
                    self.record["best_score"], saving = score, True
            if saving:
                self._save(step, state(), score)

    def save(self, step: int, state: TrainState) -> None:
        """Saves a checkpoint outside the schedule."""
        with self.metrics.paused(step), jax.transfer_guard("allow"):
            self._save(step, state)

    def _save(self, step: int, state: TrainState, score: float | None = None) -> None:
        if self._writer:
            self._writer.sync()
        self.record.update(
            step=step,
            metrics_lines=self._writer.lines if self._writer else 0,
            data_position=step * self.run.options.train.batch_size,
            unwritten=self.metrics.unwritten,
            corrupt_images=self.metrics.corrupt_images,
            config=config_lib.flatten(self.run.config.to_dict()),
            versions=versions(),
        )
        self._checkpoints.save(step, state, copy.deepcopy(self.record), score)

    def explain(self, error: NonFiniteLossError) -> NonFiniteLossError:
        """Returns the error with the last saved step, and with advice."""
        saved = self._checkpoints.steps()
        return NonFiniteLossError(
            f"{error}. The last checkpoint is of step {saved[-1] if saved else 0}. In a new "
            "--workdir try a lower optimizer.learning_rate, a longer warm-up, or "
            "optimizer.grad_clip_norm=1.0."
        )

    def close(self) -> None:
        """Waits until everything is saved, and closes the files."""
        self._checkpoints.close()
        if self._writer:
            self._writer.close()

    def write_result(self) -> dict[str, float]:
        """Writes `result.json` of a finished run; returns its last evaluation."""
        last_eval = self.record["last_eval"]
        if self._primary:
            run, config = self.run, self.run.config
            result = {
                "model": config.model.name,
                "seed": config.seed,
                "train_data": run.train_split.name,
                "train_images": len(run.train_split),
                "eval_data": run.eval_split.name,
                "image_size": config.data.image_size,
                "parameters": run.parameters,
                "macs": run.macs_per_image,
                "steps": run.total_steps,
                "epochs": run.total_steps / run.steps_per_epoch,
                "batch_size": config.train.batch_size,
                "evaluation": dict(last_eval),
                "together": self._runs_per_program,
            }
            write_json(self.folder.result_file, result)
        return last_eval
