"""Config file that returns a run's config, so that a command can change some of its fields.

  --config=s2mlp_jax/saved/config_of_run.py:WORKDIR

main.py adds this option itself when an evaluation changes fields and gives no --config.
"""

import pathlib

import ml_collections

from s2mlp_jax.saved.run_folder import RunFolder


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Returns the locked config of the run in a folder."""
    return RunFolder(pathlib.Path(workdir)).read_config().lock()
