"""A file for `--config`: the config of a run, so that a command can change some of its fields.

--config=s2mlp_jax/saved/config_of_run.py:WORKDIR, which main.py takes by itself where it evaluates.
"""

import pathlib

import ml_collections

from s2mlp_jax.saved.run_folder import RunFolder


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Returns the config of the run in a folder, locked."""
    return RunFolder(pathlib.Path(workdir)).read_config().lock()
