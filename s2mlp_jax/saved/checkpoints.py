"""Checkpoints of a run: each holds everything needed to continue exactly where it was saved.

That is the state (parameters, optimizer, averaged weights, step) and a JSON record (data
position, metrics not yet written, config, versions). Orbax writes a checkpoint under a
temporary name and renames it, so an interrupted save never looks like a complete one.
"""

import pathlib
import shutil
import typing

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from s2mlp_jax.config import list_differences
from s2mlp_jax.progress import say
from s2mlp_jax.saved.arrays import leaf_name
from s2mlp_jax.saved.files import Folder

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
                step = left.name.split(".")[0]
                say(f"Checkpoint {step} was cut short while it was saved; it is skipped.")
        best = policy.BestN(
            get_metric_fn=lambda metrics: metrics["score"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["score"],
                preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(keep), best]),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                create=not read_only,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
        )

    def save(
        self,
        step: int,
        state: typing.Any,
        record: dict[str, typing.Any],
        score: float | None = None,
    ) -> None:
        """Saves in the background; the arrays are copied before it returns.

        Args:
          score: evaluation metric that selects the best checkpoint; larger is better.

        Raises:
          Exception: if the previous save failed.
        """
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
            ),
            metrics=None if score is None else {"score": score},
        )

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step of the evaluated checkpoint with the best score, or None."""
        return self._manager.best_step()

    def restore(self, step: int, like: typing.Any) -> tuple[typing.Any, dict[str, typing.Any]]:
        """Restores one checkpoint.

        Args:
          like: shapes, dtypes and shardings of the state, as jax.ShapeDtypeStruct.

        Returns:
          The state and the record.

        Raises:
          ValueError: if the checkpoint is from another model; lists the differences.
        """
        self._check_shapes(step, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), record=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["record"]

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
        """
        there = self._metadata(step)
        averaged = bool(there.get("ema_params")) and not last
        params, model_state = (
            f"ema_{name}" if averaged else name for name in ("params", "model_state")
        )
        if not there.get(params):
            raise ValueError(f"Checkpoint {step} in {self.directory} holds no {params}.")
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
            {name: there[name] for name in (params, model_state)},
        )
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        part = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        with ocp.PyTreeCheckpointer() as reader:
            read = reader.restore(self.directory / str(step) / "state", args=part)
        return {"params": read[params], **read[model_state]}, averaged

    def restore_latest(self, like: typing.Any) -> tuple[typing.Any, dict[str, typing.Any]] | None:
        """Restores the last readable checkpoint as `restore` does; None if none exists.

        Checkpoints that cannot be read are moved to `broken_checkpoints` with a message, if an
        older one can be read.

        Raises:
          ValueError: if a checkpoint is from another model.
          RuntimeError: if checkpoints exist but none can be read; all are left in place.
        """
        broken: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, like)
            except _OtherModelError:
                raise
            except Exception as error:  # a broken file can make Orbax raise anything
                broken[step] = (str(error) or type(error).__name__).splitlines()[0][:200]
                continue
            for bad, reason in broken.items():
                self._move_aside(bad, reason)
            return restored
        if broken:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in broken.items())
            raise RuntimeError(f"No checkpoint in {self.directory} can be read ({reasons}).")
        return None

    def close(self) -> None:
        """Waits until everything is saved."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        self._manager.close()

    def _move_aside(self, step: int, reason: str) -> None:
        aside = self._folder.broken_checkpoints / str(step)
        say(f"Checkpoint {step} cannot be read ({reason}); it is moved to {aside}.")
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} moved")
        self._manager.reload()

    def _metadata(self, step: int) -> dict[str, typing.Any]:
        """Returns the shapes and dtypes of a checkpoint's state."""
        metadata = self._manager.item_metadata(step)["state"]
        if metadata is None:
            raise FileNotFoundError("its metadata are not there")
        return metadata.tree if hasattr(metadata, "tree") else metadata

    def _check_shapes(self, step: int, target: typing.Any) -> None:
        there, here = _shapes(self._metadata(step)), _shapes(target)
        different = list_differences(there, here, "not there", "none")
        if different:
            raise _OtherModelError(
                f"Checkpoint {step} in {self.directory} is of another model. "
                f"{len(different)} arrays differ, such as " + "; ".join(different[:5])
            )


class _OtherModelError(ValueError):
    pass


def _shapes(tree: typing.Any) -> dict[str, tuple[int, ...]]:
    return {
        leaf_name(path): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }
