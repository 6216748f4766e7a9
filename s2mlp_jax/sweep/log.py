"""What a sweep tells and records: how each run went, and the time that is left."""

import json
import pathlib
import typing
from collections.abc import Sequence

from s2mlp_jax.progress import say
from s2mlp_jax.saved import run_folder as workdir_lib
from s2mlp_jax.saved.metrics import read_metrics, training_seconds
from s2mlp_jax.sweep.settings import Sweep, SweepRun
from s2mlp_jax.train import describe
from s2mlp_jax.train.step_log import NonFiniteLossError


class Failure(typing.NamedTuple):
    """Why a run failed: kind "nan" or "error", and the text."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Takes what is to be said of an error."""
        kind = "nan" if isinstance(error, NonFiniteLossError) else "error"
        return cls(kind, str(error) or type(error).__name__)

    @property
    def first_line(self) -> str:
        """The text, cut."""
        return self.text.splitlines()[0]


def read_failure(folder: pathlib.Path) -> Failure | None:
    """Returns why a run failed; None if it did not."""
    path = folder / "failure.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    return Failure(content["kind"], content["error"])


def settled(folder: pathlib.Path) -> bool:
    """True for a run that is finished, or that would only fail again."""
    failure = read_failure(folder)
    return (failure is not None and failure.kind == "nan") or (folder / "result.json").exists()


class SweepLog:
    """One start of a sweep.

    Attributes:
      runs: finished, or failed, in this start.
    """

    def __init__(self, sweep: Sweep, workdir: pathlib.Path, left: Sequence[SweepRun]) -> None:
        self.sweep, self.workdir = sweep, workdir
        self.runs, self._training = 0, 0.0
        self._left, self._done, self._seconds = sum(run.cost for run in left), 0, 0.0

    def folder(self, run: SweepRun) -> pathlib.Path:
        """Returns a run's folder, which is there, and without an earlier failure."""
        folder = run.folder(self.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.json").unlink(missing_ok=True)
        return folder

    def finished(
        self,
        run: SweepRun,
        outcome: dict[str, float] | Failure,
        seconds: float,
        together: int = 1,
    ) -> None:
        """Takes a run's last evaluation, or why it failed.

        Args:
          seconds: that it took in this start.
          together: how many runs share the time that its metrics tell of.
        """
        folder = run.folder(self.workdir)
        if isinstance(outcome, Failure):
            failure = {"kind": outcome.kind, "error": outcome.text}
            run_of = {"setting": run.setting, "seed": run.seed}
            workdir_lib.write_json(folder / "failure.json", {**failure, **run_of})
            log = (folder if together == 1 else self.workdir) / "log.txt"
            figures = f"FAILED: {outcome.first_line} ({log})"
        else:
            figures = describe.eval_figures(outcome)
        self._training += self._training_seconds(run, folder) / together
        self.runs, self._seconds = self.runs + 1, self._seconds + seconds
        self._left, self._done = self._left - run.cost, self._done + run.cost
        left = self._left * self._seconds / self._done  # at the rate of all until now
        number = 1 + self.sweep.runs.index(run)
        say(
            f"[{number}/{len(self.sweep.runs)}] {run.setting}, seed {run.seed}: {figures}  "
            f"in {seconds:.1f} s, {_duration(left)} left"
        )

    def _training_seconds(self, run: SweepRun, folder: pathlib.Path) -> float:
        """Of this start; there is no environment.json where a run failed before its first step."""
        environment, lines = folder / "environment.json", read_metrics(folder / "metrics.jsonl")
        if not environment.exists():
            return 0.0
        start_step = json.loads(environment.read_text())["start_step"]
        return training_seconds(lines, run.config.train.batch_size, start_step)

    def close(self, seconds: float) -> None:
        """Adds a line on this start, which took so long, to `starts.jsonl`, a file each shard."""
        line = {
            **workdir_lib.environment(),
            "runs": self.runs,
            "seconds": seconds,
            "training_seconds": self._training,
        }
        shard = self.sweep.shard
        name = "starts" if shard == "0/1" else f"starts-{shard.replace('/', '-of-')}"
        with (self.workdir / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
