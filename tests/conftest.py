"""The tests' strict world: eight fake devices, no implicit rank promotion, warnings are errors."""

import os
import pathlib
import shutil
import tempfile

# Most tests compile much and run it briefly: 0.6 of the time without LLVM's optimisation. Real
# training is slower so; what the tests start as a command has it (test_cli.environment).
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# What was compiled once in a session is not compiled again, in a process started anew neither.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest

from tests import data_sets


def pytest_sessionstart(session: pytest.Session) -> None:
    """Prepares small data sets once; the tests and their processes find them by the variable.

    With pytest-xdist this is done before the workers are started, which inherit the variables.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        folder = tempfile.mkdtemp(prefix="s2mlp_jax_tests_")
        session.config.session_folder = folder  # type: ignore[attr-defined]
        os.environ["TFDS_DATA_DIR"] = f"{folder}/data"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled/main"
        data_sets.prepare_in_subprocess(f"{folder}/data")
    else:
        # jax does not write a file of its cache at once. Who reads half of one warns, and
        # compiles; here a warning is an error, so that each worker has a folder of its own.
        compiled = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).parent
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled / worker["workerid"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = getattr(session.config, "session_folder", None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
