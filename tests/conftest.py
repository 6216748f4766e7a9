"""The tests' strict world: eight fake devices, no implicit rank promotion, warnings are errors."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import tempfile

# Most tests compile much and run it briefly. Without LLVM's optimisation, XLA's fusion emitters and
# the splitting of a program over threads, compiling takes less than half of the CPU time. Training
# is slower so: the test of the digits' accuracy has XLA's defaults.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
    # Later ones do not know this flag, and end a process that sets it.
    + " --xla_cpu_use_fusion_emitters=false"
    * (importlib.metadata.version("jaxlib") < "0.12"),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# No program is compiled twice, whichever process or session needs it.
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
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled_programs(session.config))
    data_sets.prepare_in_subprocess(f"{folder}/data")


def compiled_programs(config: pytest.Config) -> pathlib.Path:
    """Returns the folder of compiled programs, which is kept between sessions.

    jax's key of a program holds jax's version, XLA's flags and the program, but not the CPU whose
    instructions it uses; so that each kind of CPU has a folder. A folder of over 1 GB is emptied.
    """
    try:
        found = re.search(r"^flags.*", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    cpu = hashlib.sha256((found[0] if found else platform.platform()).encode()).hexdigest()[:8]
    folder = config.rootpath / ".pytest_cache" / "compiled_programs" / cpu
    if folder.exists() and sum(file.stat().st_size for file in folder.iterdir()) > 1e9:
        shutil.rmtree(folder)
    return folder


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = getattr(session.config, "session_folder", None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
