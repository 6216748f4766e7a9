"""Writes, reads and checks the config and the data description in a run's folder."""

import contextlib
import typing
from collections.abc import Iterator, Mapping

import ml_collections
from flax import traverse_util

from s2mlp_jax.config import differences, list_differences, to_json
from s2mlp_jax.lock import locked
from s2mlp_jax.progress import say
from s2mlp_jax.saved.files import Folder, read_json, write_json, write_text

# Facts about the data that a model's outputs depend on.
_FIXED = ("channels", "class_names")


class RunFolder(Folder):
    """The folder of a run, which may not exist yet."""

    def check_config(
        self, config: ml_collections.ConfigDict, accept_changes: bool = False
    ) -> list[str]:
        """Checks that the folder is new or belongs to a run of this config.

        Args:
          accept_changes: whether fields may differ, except those of the model.

        Returns:
          The fields that differ, with both values: free ones, and those that are accepted.

        Raises:
          ValueError: if it belongs to another run (lists the fields that differ) or is not a run's.
        """
        if self.check_kind("run", "none") == "none":
            return []
        if (saved := self._config_or_none()) is None:
            return []
        different = differences(saved, config)
        if accept_changes:
            different = [field for field in different if field.startswith("model.")]
        if different:
            listed = "\n  ".join(different)
            raise ValueError(
                f"{self.path} belongs to a run of another config:\n  {listed}\n"
                "To go on with that run, give its config. To go on with these changes all the "
                "same, add --accept_changes (not for model.*). To start a new run from its "
                f"weights, take another --workdir and --config.init_from={self.path}."
            )
        return differences(saved, config, free=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the folder, and locks it against other processes that train in it.

        Raises:
          LockedError: if another process is training there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.lock_file, f"training in {self.path}"):
            yield

    def write_config(self, config: ml_collections.ConfigDict) -> None:
        """Writes the completed config."""
        write_text(self.config_file, to_json(config))

    def read_config(self) -> ml_collections.ConfigDict:
        """Returns the config of the run.

        Raises:
          ValueError: if the folder is not a run's, or the file cannot be read.
        """

        def tuples(value: typing.Any) -> typing.Any:
            if isinstance(value, dict):
                return {key: tuples(item) for key, item in value.items()}
            return tuple(value) if isinstance(value, list) else value

        return ml_collections.ConfigDict(tuples(self._read_config()))

    def _read_config(self) -> dict[str, typing.Any]:
        """Returns the config as JSON; if the file is damaged, from the last checkpoint."""
        self.check_kind("run")
        try:
            config = read_json(self.config_file)
            if isinstance(config, dict) and "model" in config:
                return config
            error = ValueError(f"{self.config_file} holds no config.")
        except ValueError as reason:
            error = reason
        for step in sorted(self.saved_steps(), reverse=True):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                flat = read_json(self.record_file(step))["config"]
                config = traverse_util.unflatten_dict(flat, sep=".")
                say(f"{error} The config in checkpoint {step} is used.")
                return config
        raise error

    def _config_or_none(self) -> dict[str, typing.Any] | None:
        """Returns the config; None if it is damaged and nothing was saved, so it may be new."""
        try:
            return self._read_config()
        except ValueError as error:
            if self.saved_steps():
                raise
            say(f"{error} As there is no checkpoint, the run begins anew.")
            return None

    def check_data(self, data: Mapping[str, typing.Any], accept_changes: bool = False) -> list[str]:
        """Checks that the data are the same as when the run began.

        Args:
          data: description that `Experiment.describe_data` returned.
          accept_changes: whether they may differ, except in classes and channels.

        Returns:
          The accepted differences.

        Raises:
          ValueError: if the data differ; lists the differences.
        """
        if not self.data_file.exists():
            return []
        try:
            recorded = read_json(self.data_file)
            before = {part: recorded[part] for part in data}
        except (ValueError, TypeError, KeyError):
            say(f"{self.data_file} cannot be read. It is written again, from the data found now.")
            return []
        different = list_differences(before, data, "none", "none")
        fixed = any(before.get(part) != data.get(part) for part in _FIXED)
        if fixed or (different and not accept_changes):
            listed = "\n  ".join(different)
            advice = "To go on with these data all the same, add --accept_changes."
            raise ValueError(
                f"{self.path} belongs to a run on other data:\n  {listed}\n"
                f"Put them back as they were, or take another --workdir. {'' if fixed else advice}"
            )
        return different

    def write_data(self, data: Mapping[str, typing.Any]) -> None:
        """Writes the description of the data that `Experiment.describe_data` returned."""
        write_json(self.data_file, data)

    def read_data(self) -> dict[str, typing.Any]:
        """Returns the description of the run's data, as `Experiment.describe_data` returns it.

        Raises:
          ValueError: if the file is missing or cannot be read.
        """
        try:
            return read_json(self.data_file)
        except ValueError as error:
            raise ValueError(
                f"{error} It describes the run's data. Where the data are, `python main.py` with "
                "the run's own config writes it again."
            ) from error
