"""Every command: its exit codes, and the one rule that tells a user's mistake from a bug."""

import importlib
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from s2mlp_jax import cli
from s2mlp_jax.cli import ExitCode
from s2mlp_jax.export.export_model import DifferentError
from s2mlp_jax.models import get_variant
from s2mlp_jax.train.loop import Stopped
from s2mlp_jax.train.step_metrics import NonFiniteLossError
from tests.helpers import ROOT, exit_code

SWEEP = ["--config=configs/ablation_shift.py", "--workdir=nowhere"]


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("data.prepare", ["no_such_set"], "Unknown data set 'no_such_set'"),
        ("data.prepare", ["digits", "--short_size=8"], "--short_size"),
        ("export", ["nowhere", "out"], "nowhere"),
        ("export", ["a", "b", "--format=tflite"], "'tflite'.*onnx"),
        ("models", ["--all"], "--all"),
        ("predict", ["nowhere", "tests"], "nowhere"),
        ("predict", ["nowhere"], "PATH"),
        ("probe", ["nowhere", "digits"], "nowhere"),
        ("probe", ["nowhere", "digits", "--neighbors=few"], "--neighbors.*'few'"),
        ("report", ["nowhere"], "nowhere"),
        ("report", [], "WORKDIR"),
        ("sweep", [*SWEEP, "--only=z"], "z"),
        ("sweep", [*SWEEP, "--workdirs=x"], "Unknown arguments --workdirs=x"),
        ("visualize", ["shift", "sideways", "--output=x.png"], "sideways"),
        ("visualize", ["shift"], "--output"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    module: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(ROOT)
    found = importlib.import_module(f"s2mlp_jax.{module}")
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"s2mlp_jax.{module}.__main__")
    main = found.main
    assert exit_code(main, arguments) == ExitCode.BAD_INPUT
    printed = capsys.readouterr().err
    assert re.fullmatch(f"Error: .*{message}.*\n", printed), printed  # the dot takes no line break


def raised(call: object, *arguments: object) -> Exception:
    """Returns the exception that a call raises."""
    with pytest.raises(Exception) as info:
        call(*arguments)  # type: ignore[operator]
    return info.value


def load(path: pathlib.Path) -> types.ModuleType:
    """Runs a file of the user's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_package_raises_is_a_mistake() -> None:
    assert cli.is_mistake(raised(get_variant, "s3mlp"))


def test_what_goes_wrong_in_a_file_of_the_users_is_a_mistake(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "config.py"
    path.write_text("def f(text):\n    return int(text)\n\ndef g():\n    raise ValueError('no')\n")
    module = load(path)
    assert cli.is_mistake(raised(module.f, "x"))
    assert cli.is_mistake(raised(module.g))
    assert not cli.is_mistake(raised(module.f, None))  # a TypeError: Python says it best


def test_what_a_library_raises_is_a_bug() -> None:
    assert not cli.is_mistake(raised(json.loads, "{"))
    assert not cli.is_mistake(raised(np.random.default_rng(0).choice, 0))
    assert not cli.is_mistake(raised(np.stack, []))


def test_an_operation_that_fails_in_the_package_is_a_bug() -> None:
    """numpy's and Python's own compiled code has no frame: the innermost one is the package's."""
    code = compile("int('x')", cli.__file__, "exec")
    assert not cli.is_mistake(raised(exec, code))
    code = compile("raise ValueError('said')", cli.__file__, "exec")
    assert cli.is_mistake(raised(exec, code))


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (Stopped("Saved."), ExitCode.STOPPED, "Saved. Start the same command again to go on.\n"),
        (NonFiniteLossError("NaN."), ExitCode.WRONG_NUMBERS, "Error: NaN.\n"),
        (DifferentError("Other."), ExitCode.WRONG_NUMBERS, "Error: Other.\n"),
    ],
)
def test_an_exception_says_its_exit_code(
    error: Exception, code: int, printed: str, capsys: pytest.CaptureFixture
) -> None:
    @cli.command
    def main() -> int:
        raise error

    assert main() == code
    assert capsys.readouterr().err == printed


def test_a_bug_keeps_its_traceback() -> None:
    @cli.command
    def main() -> int:
        return int(np.stack([]).size)

    with pytest.raises(ValueError, match="at least one array"):
        main()


def test_the_ground_of_commands_imports_the_standard_library_alone() -> None:
    """So --help is quick, and a report needs no jax."""
    code = "import sys, s2mlp_jax.cli; print(*{'numpy', 'jax', 'absl'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == []
