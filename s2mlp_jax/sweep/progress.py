"""Progress of a sweep: the outcome of each run, and the time left."""

import pathlib
import typing
from collections.abc import Sequence

from s2mlp_jax.progress import duration, say
from s2mlp_jax.saved.environment import environment
from s2mlp_jax.saved.files import Folder, append_json_line, read_json, write_json
from s2mlp_jax.saved.metrics import read_metrics, training_seconds
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.sweep.settings import Sweep, SweepRun
from s2mlp_jax.train import describe
from s2mlp_jax.train.step_metrics import NonFiniteLossError


class Failure(typing.NamedTuple):
    """Reason why a run failed: `kind` is "nan" or "error", `text` the message."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Creates the record of an exception."""
        kind = "nan" if isinstance(error, NonFiniteLossError) else "error"
        return cls(kind, str(error) or type(error).__name__)

    @property
    def first_line(self) -> str:
        """The first line of the text."""
        return self.text.splitlines()[0]


def read_failure(folder: Folder) -> Failure | None:
    """Reads why a run failed; None if it did not, or if it has a result."""
    if _has_result(folder) or not folder.failure_file.exists():
        return None
    try:
        content = read_json(folder.failure_file)
        return Failure(content["kind"], content["error"])
    except (ValueError, TypeError, KeyError) as error:  # a damaged file
        return Failure("error", str(error))


def is_settled(folder: Folder) -> bool:
    """True for a run that is finished, or that would only fail again."""
    failure = read_failure(folder)
    return _has_result(folder) or (failure is not None and failure.kind == "nan")


def _has_result(folder: Folder) -> bool:
    try:
        return "evaluation" in read_json(folder.result_file)
    except (ValueError, TypeError):  # missing or damaged: training writes it again
        return False


class SweepProgress:
    """Prints and records the progress of one start of a sweep.

    Attributes:
      runs: number of runs that finished or failed in this start.
    """

    def __init__(self, sweep: Sweep, workdir: pathlib.Path, left: Sequence[SweepRun]) -> None:
        self.sweep, self.folder = sweep, Folder(workdir)
        self.runs, self._training = 0, 0.0
        self._left, self._done, self._seconds = sum(run.cost for run in left), 0, 0.0

    def open_folder(self, run: SweepRun) -> RunFolder:
        """Creates and returns a run's folder; removes the record of an earlier failure."""
        folder = run.folder(self.folder.path)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.failure_file.unlink(missing_ok=True)
        return folder

    def finished(
        self,
        run: SweepRun,
        outcome: dict[str, float] | Failure,
        seconds: float,
        runs_per_program: int = 1,
    ) -> None:
        """Records a run's last evaluation, or why it failed.

        Args:
          seconds: time of the run in this start.
          runs_per_program: number of runs that were trained as one program and shared its time.
        """
        folder = run.folder(self.folder.path)
        if isinstance(outcome, Failure):
            failure = {"kind": outcome.kind, "error": outcome.text}
            run_of = {"setting": run.setting, "seed": run.seed}
            write_json(folder.failure_file, {**failure, **run_of})
            log = (folder if runs_per_program == 1 else self.folder).log_file
            figures = f"FAILED: {outcome.first_line} ({log})"
        else:
            folder.failure_file.unlink(missing_ok=True)  # of another process
            figures = describe.eval_figures(outcome)
        self._training += self._training_seconds(run, folder) / runs_per_program
        self.runs, self._seconds = self.runs + 1, self._seconds + seconds
        self._left, self._done = self._left - run.cost, self._done + run.cost
        left = self._left * self._seconds / self._done  # at the average rate so far
        number = 1 + self.sweep.runs.index(run)
        say(
            f"[{number}/{len(self.sweep.runs)}] {run.setting}, seed {run.seed}: {figures}  "
            f"in {duration(seconds)}, {duration(left)} left"
        )

    def _training_seconds(self, run: SweepRun, folder: RunFolder) -> float:
        """Training time in this start; 0 if the run failed before its first step."""
        if not folder.environment_file.exists():  # written before the first step
            return 0.0
        start_step = read_json(folder.environment_file)["start_step"]
        lines = read_metrics(folder.metrics_file)
        return training_seconds(lines, run.config.train.batch_size, start_step)

    def close(self, seconds: float) -> None:
        """Appends a line on this start, which took `seconds`, to the shard's `starts.jsonl`."""
        figures = {"runs": self.runs, "seconds": seconds, "training_seconds": self._training}
        path = self.folder.starts_file(self.sweep.shard)
        append_json_line(path, {**environment(), **figures})
