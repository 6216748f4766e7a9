"""Orbax's manager of the checkpoints of one folder, set up for this project."""

import pathlib
import typing
from collections.abc import Callable, Sequence

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy


def open_manager(
    directory: pathlib.Path, keep: int, best_step: Callable[[], int | None], read_only: bool
) -> ocp.CheckpointManager:
    """Returns the manager of a folder of checkpoints with a state and a record each.

    Args:
      keep: number of the latest checkpoints that are kept.
      best_step: returns the step of a further checkpoint that is kept; None for none.
      read_only: whether nothing is created or removed.
    """
    kept = [policy.LatestN(keep), _Preserve(best_step)]
    return _Manager(
        directory,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
        ),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "record": ocp.JsonCheckpointHandler(),
        },
    )


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, but it does not read the scores, which fails if a file is damaged."""

    def metrics(self, step: int) -> None:
        """Returns no metrics of a checkpoint; called by Orbax when it opens a folder."""


class _Preserve(policy.PreservationPolicy):
    """Keeps the checkpoint of the step that a function returns."""

    def __init__(self, step: Callable[[], int | None]) -> None:
        self._step = step

    def should_preserve(
        self, checkpoints: Sequence[typing.Any], *, context: typing.Any
    ) -> Sequence[bool]:
        """Returns for each checkpoint whether it is kept; called by Orbax."""
        kept = self._step()
        return [checkpoint.step == kept for checkpoint in checkpoints]
