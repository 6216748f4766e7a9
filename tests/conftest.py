"""The tests' strict world: eight fake devices, no implicit rank promotion, warnings are errors."""

import os
import shutil
import tempfile

# Most tests compile much and run it briefly. Without LLVM's optimisation, XLA's fusion emitters and
# the splitting of one program over threads, compiling takes a third of the CPU time. Real training
# would be slower so; `tests/test_cli.py` trains the digits with XLA's defaults.
QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault(
    "XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {QUICK_COMPILATION}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# No program is compiled twice in a session, whichever process needs it.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest

from tests import data_sets


def pytest_sessionstart(session: pytest.Session) -> None:
    """Prepares small data sets once; the tests and their processes find them by the variable.

    With pytest-xdist this is done before the workers are started, which inherit the variables.
    """
    if hasattr(session.config, "workerinput"):
        return
    folder = tempfile.mkdtemp(prefix="s2mlp_jax_tests_")
    session.config.session_folder = folder  # type: ignore[attr-defined]
    os.environ["TFDS_DATA_DIR"] = f"{folder}/data"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
    data_sets.prepare_in_subprocess(f"{folder}/data")


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = getattr(session.config, "session_folder", None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
