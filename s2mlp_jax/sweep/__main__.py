"""Runs a sweep: every setting of a config, for several seeds, in one process.

  python -m s2mlp_jax.sweep --config=configs/ablation_shift.py --workdir=/tmp/shift --seeds=3
  python -m s2mlp_jax.sweep --config=configs/ablation_shift.py:cifar10 --workdir=W --list
  python -m s2mlp_jax.sweep --config=... --workdir=W --only=a,none --config.train.epochs=5
  python -m s2mlp_jax.sweep --config=... --workdir=W --shard=0/8
  python -m s2mlp_jax.sweep --config=configs/compare.py:digits --workdir=W --measure

Each run has a folder WORKDIR/SETTING/SEED, like a workdir of main.py. The same command resumes a
sweep that was stopped or killed. Exit codes: 0 all done; 2 bad input; 4 some runs failed, the
others are done; 75 stopped by a signal and saved.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from absl import logging

from s2mlp_jax.cli import ExitCode, Parser, command, parse_overrides
from s2mlp_jax.progress import plural, say
from s2mlp_jax.sweep.measure import measure_sweep
from s2mlp_jax.sweep.run import run_sweep, runs_left
from s2mlp_jax.sweep.settings import open_sweep


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sweep from the command line; returns the exit code."""
    parser = Parser(
        prog="python -m s2mlp_jax.sweep",
        description=__doc__,
        epilog="--config.FIELD=VALUE changes a field in all runs.",
    )
    parser.add_argument("--config", required=True, help="config file with a function sweep()")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1")
    parser.add_argument("--only", default="", metavar="A,B", help="run only these settings")
    parser.add_argument(
        "--shard", default="0/1", metavar="I/N", help="run only part I of N parts; I begins at 0"
    )
    parser.add_argument(
        "--vectorize",
        choices=["auto", "on", "off"],
        default="auto",
        help="train runs of equal shapes as one program; auto: if that is faster",
    )
    parser.add_argument("--list", action="store_true", help="only list the runs and their cost")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="only measure speed and memory of the settings, for the report",
    )
    flags, rest = parser.parse_known_args(arguments)
    logging.set_verbosity(logging.ERROR)
    sweep = open_sweep(
        flags.config,
        parse_overrides(rest, "--config."),
        seeds=flags.seeds,
        only=flags.only,
        shard=flags.shard,
    )
    if flags.list:
        left = runs_left(sweep, pathlib.Path(flags.workdir))
        for line in sweep.describe(left):
            say(line)
        return ExitCode.DONE
    if flags.measure:
        say(f"Wrote {measure_sweep(sweep, flags.workdir)}")
        return ExitCode.DONE
    failed = run_sweep(sweep, flags.workdir, flags.vectorize)
    say(f"Next: python -m s2mlp_jax.report {flags.workdir}")
    if failed:
        names = ", ".join(f"{run.setting} seed {run.seed}" for run in failed)
        print(f"{plural(len(failed), 'run')} failed: {names}.", file=sys.stderr)
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


if __name__ == "__main__":
    code = main()
    if code == ExitCode.STOPPED:  # an ordinary exit would wait for a running compilation
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
