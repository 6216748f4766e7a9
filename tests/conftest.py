"""The tests' strict world: eight fake devices, no implicit rank promotion, warnings are errors."""

import os
import shutil
import tempfile

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import pytest

from tests import data_sets


def pytest_sessionstart(session: pytest.Session) -> None:
    """Prepares small data sets once; the tests and their processes find them by the variable."""
    folder = tempfile.mkdtemp(prefix="s2mlp_jax_tests_")
    session.config.prepared_data = folder  # type: ignore[attr-defined]
    os.environ["TFDS_DATA_DIR"] = folder
    data_sets.prepare_in_subprocess(folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = getattr(session.config, "prepared_data", None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
