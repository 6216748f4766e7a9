"""What all commands share: exit codes, parsers of options, and one rule for errors.

This file needs only the standard library, so `--help` is quick, and a report needs no jax.
"""

import argparse
import ast
import enum
import errno
import functools
import io
import opcode
import os
import pathlib
import signal
import sys
import sysconfig
import typing
from collections.abc import Callable, Iterable

from s2mlp_jax.escape import printable

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = {"site-packages", "dist-packages"}  # folders of installed libraries
_P = typing.ParamSpec("_P")

# Numbers of errors of the operating system.
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR}


class ExitCode(enum.IntEnum):
    """How a command ended. After a bug, Python exits with code 1 and a traceback."""

    DONE = 0
    BAD_INPUT = 2  # in the command line, a config or the data: the user can correct it
    WRONG_NUMBERS = 3  # the loss became NaN, or an exported model computes other logits
    SOME_FAILED = 4  # some runs or files failed; the others are done
    STOPPED = 75  # by a signal, after saving, or by a full disk: the same command continues
    INTERRUPTED = 130  # by Ctrl-C, with nothing to save


class Parser(argparse.ArgumentParser):
    """Prints the module's docstring for --help, and errors as one line."""

    def __init__(self, *, allow_abbrev: bool = False, **keywords: typing.Any) -> None:
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=allow_abbrev, **keywords)

    def error(self, message: str) -> typing.NoReturn:
        """Prints the message and exits."""
        self.exit(ExitCode.BAD_INPUT, f"Error: {printable(message, lines=True)}\n")


def command(main: Callable[_P, int]) -> Callable[_P, int]:
    """Decorates a command's `main`: turns errors into exit codes by one rule.

    An exception that has an `exit_code` is printed, and the command ends with that code. A user's
    mistake (see `is_mistake`) is printed as "Error: ...", with code 2. So is an error of the
    operating system about a path that cannot be used or written to; after a full disk, the code is
    75. Any other exception is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def run(*arguments: _P.args, **keywords: _P.kwargs) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # not a notebook's
                stream.reconfigure(errors="backslashreplace")  # an ASCII terminal has no "±"
        try:
            return main(*arguments, **keywords)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr, flush=True)
            return ExitCode.INTERRUPTED
        except Exception as error:
            code, message = _explain(error)
            if code is None:
                raise
            stopped = f"{message} Start the same command again to go on."
            message = stopped if code == ExitCode.STOPPED else f"Error: {message}"
            print(printable(message, lines=True), file=sys.stderr, flush=True)
            return code

    return run


def _explain(error: Exception) -> tuple[ExitCode | None, str]:
    """Returns the exit code for an exception, None for a bug, and the message."""
    if (code := getattr(error, "exit_code", None)) is not None:
        return code, str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL | UNUSABLE:
        full = error.errno in DISK_FULL
        where = error.filename or "A file that is being written"
        return (ExitCode.STOPPED if full else ExitCode.BAD_INPUT), f"{where}: {error.strerror}."
    return (ExitCode.BAD_INPUT if is_mistake(error) else None), str(error)


def end_on_interrupt() -> None:
    """Makes Ctrl-C end the process at once, without a traceback.

    `train.signals.StopRequest` replaces this while there is something to save, and a second Ctrl-C
    comes back to it.
    """

    def end(*_: typing.Any) -> None:
        # An exception would be lost while a library is being imported or Python cleans up.
        os.write(2, b"Interrupted.\n")
        os._exit(ExitCode.INTERRUPTED)

    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def is_mistake(error: BaseException) -> bool:
    """Returns whether an exception is a user's mistake, and not a bug.

    A mistake is a ValueError raised by a `raise` statement of this package, or in a file of the
    user's own, such as a config. A ValueError from a library, or from an operation in this package
    (for example, on arrays whose shapes do not match), is a bug: its message was not written for
    the user.
    """
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    innermost = error.__traceback__
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code
    file = os.path.abspath(code.co_filename)
    if file.startswith(_PACKAGE):
        return opcode.opname[code.co_code[innermost.tb_lasti]] == "RAISE_VARARGS"
    installed = file.startswith(_STANDARD_LIBRARY) or _INSTALLED & {*pathlib.Path(file).parts}
    return os.path.isfile(file) and not installed


def parse_overrides(arguments: Iterable[str], prefix: str) -> dict[str, typing.Any]:
    """Returns {"model.shift": "e"} for ["--config.model.shift=e"] and the prefix "--config.".

    A value is parsed as a Python literal if possible, otherwise kept as text.

    Raises:
      ValueError: arguments do not begin with the prefix (the message lists them all), or an
        argument has no value.
    """
    arguments = list(arguments)
    if unknown := [text for text in arguments if not text.startswith(prefix)]:
        raise ValueError(f"Unknown arguments {' '.join(unknown)}.")
    overrides: dict[str, typing.Any] = {}
    for argument in arguments:
        field, equals, text = argument.removeprefix(prefix).partition("=")
        if not equals:
            raise ValueError(f"{argument} has no value: {prefix}{field}=VALUE.")
        try:
            overrides[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            overrides[field] = text
    return overrides
