"""Checkpoints of a run: each holds everything needed to continue exactly where it was saved.

That is the state (parameters, optimizer, averaged weights, step) and a JSON record (data
position, metrics not yet written, config, versions). Orbax writes a checkpoint under a
temporary name and renames it, so an interrupted save never looks like a complete one. The record
holds the checksum of each array and of itself, which are compared when a checkpoint is read.
"""

import contextlib
import pathlib
import shutil
import typing

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from s2mlp_jax.config import list_differences
from s2mlp_jax.progress import say
from s2mlp_jax.saved import disk_faults
from s2mlp_jax.saved.arrays import leaf_name
from s2mlp_jax.saved.disk_faults import DamagedError
from s2mlp_jax.saved.files import Folder
from s2mlp_jax.saved.manager import open_manager
from s2mlp_jax.saved.record import check_state, contents, read_record, read_score, seal

_TEMPORARY = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints of a workdir: the last `keep`, and the one with the best metric.

    Attributes:
      directory: folder of the checkpoints, with one folder per step.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int = 1, read_only: bool = False) -> None:
        """Opens the folder; unless `read_only`, reports and removes incomplete checkpoints."""
        self._folder = Folder(pathlib.Path(workdir).absolute())
        self.directory = self._folder.checkpoints
        if not read_only:
            for left in sorted(self.directory.glob(f"*{_TEMPORARY}*")):
                cut = left.name.split(".")[0]
                say(f"Checkpoint {cut} was cut short while it was saved; it is skipped.")
        self._scores: dict[int, float] = {}
        self._size = 0.0  # bytes of the last state that was saved
        self._saving = False  # whether a save may be in progress
        self._manager = open_manager(self.directory, keep, self.best_step, read_only)
        for step in self.steps():
            if (score := read_score(self._folder, step)) is not None:
                self._scores[step] = score

    def save(
        self,
        step: int,
        state: typing.Any,
        record: dict[str, typing.Any],
        score: float | None = None,
    ) -> None:
        """Saves in the background; the arrays are copied before it returns.

        Args:
          record: JSON values; its entry "step" is `step`.
          score: evaluation metric that selects the best checkpoint; larger is better.

        Raises:
          Exception: as `check` does.
          RuntimeError: if Orbax refuses to save, because a later checkpoint exists.
        """
        self.check(wait=True)
        if step in self._manager.all_steps():
            return
        self.check_room(state)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            record=ocp.args.JsonSave(seal(record, state, score)),
        )
        if score is not None:
            self._scores[step] = score  # before Orbax decides which checkpoints to delete
        with disk_faults.explained(self.directory, self._size):
            if not self._manager.save(step, args=args):
                raise RuntimeError(
                    f"Checkpoint {step} was not saved: {self.directory} has the later checkpoint "
                    f"{self.steps()[-1]}."
                )
        self._saving = True

    def check_room(self, state: typing.Any) -> None:
        """Checks that the disk has room for a checkpoint; on a full one Orbax prints 1,000 lines.

        Args:
          state: the state, or its shapes and dtypes.

        Raises:
          DiskError: if there is not enough room.
        """
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        # Compressed, as trained weights look random; and what describes the arrays.
        self._size = 0.9 * size + 2**20
        disk_faults.check_room(self.directory, self._size)

    def check(self, wait: bool = False) -> None:
        """Checks that the last save has not failed so far; if `wait`, waits until it is complete.

        Raises:
          DiskError: if it failed because of the disk.
          Exception: if it failed for another reason.
        """
        if not self._saving:  # called after each step
            return
        with disk_faults.explained(self.directory, self._size):
            if wait or not self._manager.is_saving_in_progress():
                self._saving = False
                self._manager.wait_until_finished()  # raises what a thread of its own met
            self._manager.check_for_errors()

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step of the evaluated checkpoint with the best score, or None."""
        there = [step for step in self.steps() if step in self._scores]
        return max(there, key=lambda step: (self._scores[step], step), default=None)

    def restore(self, step: int, like: typing.Any) -> tuple[typing.Any, dict[str, typing.Any]]:
        """Restores one checkpoint, and compares what was read with the checksums in its record.

        Args:
          like: shapes, dtypes and shardings of the state, as jax.ShapeDtypeStruct.

        Returns:
          The state and the record.

        Raises:
          OtherModelError: if the checkpoint is from another model; lists the differences.
          DamagedError: if the checkpoint is damaged; names the array or file.
          DiskError: if it cannot be read for a reason that may pass.
        """
        with self._reading(step):
            record = read_record(self._folder, step)
            self._check_shapes(step, like)
            # Not by the manager, which reads further files, such as the scores.
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                args = ocp.args.StandardRestore(like)
                state = reader.restore(self._folder.state_folder(step), args=args)
            check_state(state, record)
            if (counted := getattr(state, "step", None)) is not None and int(counted) != step:
                raise DamagedError(f"its state is of step {int(counted)}")
        return state, contents(record)

    def find(self, checkpoint: str) -> int:
        """Returns the step of a checkpoint.

        Args:
          checkpoint: "latest", "best", or a step.

        Raises:
          ValueError: if there is no such checkpoint; lists the existing ones.
        """
        steps = self.steps()
        named = {"latest": steps[-1] if steps else None, "best": self.best_step()}
        found = named.get(checkpoint, int(checkpoint) if checkpoint.isdigit() else None)
        if found not in steps:
            listed = ", ".join(map(str, steps)) or "(no step: none saved)"
            raise ValueError(
                f"There is no checkpoint {checkpoint!r} in {self.directory}. "
                f"Allowed are latest, best, {listed}."
            )
        return found

    def read_variables(self, step: int, last: bool = False) -> tuple[dict[str, typing.Any], bool]:
        """Reads only the model's variables from a checkpoint.

        Their shapes come from the checkpoint's metadata, so this needs no model, no optimizer and
        no training devices.

        Args:
          last: read the weights of the last step even if averaged weights were kept.

        Returns:
          The variables for `model.apply`, as unsharded numpy arrays, and whether they are averaged.

        Raises:
          ValueError: if the checkpoint holds no weights.
          DamagedError, DiskError: as `restore` does.
        """
        with self._reading(step):
            return self._read_variables(step, last)

    def _read_variables(self, step: int, last: bool) -> tuple[dict[str, typing.Any], bool]:
        there = self._metadata(step)
        averaged = bool(there.get("ema_params")) and not last
        params, model_state = (
            f"ema_{name}" if averaged else name for name in ("params", "model_state")
        )
        if not there.get(params):
            raise DamagedError(f"it holds no {params}")
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
            {name: there[name] for name in (params, model_state)},
        )
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        part = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        with ocp.PyTreeCheckpointer() as reader:
            read = reader.restore(self._folder.state_folder(step), args=part)
        check_state(read, read_record(self._folder, step), partial=True)
        return {"params": read[params], **read[model_state]}, averaged

    def restore_latest(self, like: typing.Any) -> tuple[typing.Any, dict[str, typing.Any]] | None:
        """Restores the last undamaged checkpoint as `restore` does; None if none exists.

        Damaged checkpoints are moved to `broken_checkpoints` with a message, if an older one can
        be read.

        Raises:
          OtherModelError, DiskError: as `restore` does; nothing is moved.
          DamagedError: if checkpoints exist but all are damaged; all are left in place.
        """
        broken: dict[int, DamagedError] = {}
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, like)
            except DamagedError as error:
                broken[step] = error
                continue
            for bad, reason in broken.items():
                self._move_aside(bad, reason)
            return restored
        if broken:
            reasons = " ".join(map(str, broken.values()))
            raise DamagedError(f"No checkpoint in {self.directory} can be read. {reasons}")
        return None

    def close(self) -> None:
        """Waits until everything is saved.

        Raises:
          Exception: as `check` does.
        """
        try:
            self.check(wait=True)
        finally:
            self._manager.close()

    def _move_aside(self, step: int, reason: DamagedError) -> None:
        aside = self._folder.broken_checkpoints / str(step)
        say(f"{reason} It is moved to {aside}.")
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} moved")
        self._manager.reload()

    def _reading(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Turns what Orbax raises while it reads a checkpoint into the errors of `restore`."""
        return disk_faults.reading(f"Checkpoint {step} in {self.directory}", OtherModelError)

    def _metadata(self, step: int) -> dict[str, typing.Any]:
        """Returns the shapes and dtypes of a checkpoint's state."""
        # A Checkpointer would return None for any error.
        metadata = ocp.StandardCheckpointHandler().metadata(
            epath.Path(self._folder.state_folder(step))
        )
        return metadata.tree if hasattr(metadata, "tree") else metadata

    def _check_shapes(self, step: int, target: typing.Any) -> None:
        there, here = _shapes(self._metadata(step)), _shapes(target)
        different = list_differences(there, here, "not there", "none")
        if different:
            raise OtherModelError(
                f"Checkpoint {step} in {self.directory} is of another model. "
                f"{len(different)} arrays differ, such as " + "; ".join(different[:5])
            )


class OtherModelError(ValueError):
    """A checkpoint is from another model."""


def _shapes(tree: typing.Any) -> dict[str, tuple[int, ...]]:
    return {
        leaf_name(path): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }
