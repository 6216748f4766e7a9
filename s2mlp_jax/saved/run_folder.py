"""Writes, reads and checks the config and the data description in a run's folder."""

import typing
from collections.abc import Mapping

import ml_collections

from s2mlp_jax.config import differences, list_differences, to_json
from s2mlp_jax.saved.files import Folder, read_json, write_json, write_text


class RunFolder(Folder):
    """The folder of a run, which may not exist yet."""

    def check_config(self, config: ml_collections.ConfigDict) -> None:
        """Checks that the folder is new or belongs to a run of this config.

        Raises:
          ValueError: if it belongs to another run (lists the fields that differ) or is not a run's.
        """
        if self.kind == "none":
            return
        different = differences(self._read_config(), config)
        if different:
            listed = "\n  ".join(different)
            raise ValueError(
                f"{self.path} belongs to a run of another config:\n  {listed}\n"
                "Take another --workdir, or the same config to go on with that run."
            )

    def write_config(self, config: ml_collections.ConfigDict) -> None:
        """Creates the folder and writes the completed config into it."""
        self.path.mkdir(parents=True, exist_ok=True)
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
        self.check_kind("run")
        if not self.config_file.exists():
            raise ValueError(
                f"{self.path} has checkpoints but no config.json; take another workdir."
            )
        return read_json(self.config_file)

    def check_data(self, data: Mapping[str, typing.Any]) -> None:
        """Checks that the data are the same as when the run began.

        Args:
          data: description that `Experiment.describe_data` returned.

        Raises:
          ValueError: if the data differ; lists the differences.
        """
        if not self.data_file.exists():
            return
        recorded = read_json(self.data_file)
        before = {part: recorded.get(part) for part in data}
        if different := list_differences(before, data, "none", "none"):
            listed = "\n  ".join(different)
            raise ValueError(
                f"{self.path} belongs to a run on other data:\n  {listed}\n"
                "Put them back as they were, or take another --workdir."
            )

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
