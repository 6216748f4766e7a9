"""Trains or evaluates an image classifier, or plans a training run.

  python main.py --config=configs/s2mlp_digits.py --workdir=/tmp/digits
  python main.py --config=configs/s2mlp_digits.py --workdir=/tmp/e --config.model.shift=e
  python main.py --mode=eval --workdir=/tmp/digits
  python main.py --mode=eval --workdir=/tmp/digits --config.data.image_size=16
  python main.py --mode=plan --config=configs/s2mlp_wide.py --devices=8 --device_memory_gib=16

Exit codes: 0 done; 2 bad input; 3 the loss became NaN; 75 stopped by a signal and saved, or the
disk is full: start the same command again to go on; 130 interrupted by Ctrl-C when nothing was to
be saved.
"""

from s2mlp_jax.cli import ExitCode, command, end_on_interrupt

if __name__ == "__main__":
    end_on_interrupt()  # first, as importing takes seconds

import itertools
import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from s2mlp_jax.escape import printable

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, a file of configs/. For eval the run's own, unless given."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: new, or to be continued.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "plan"], "What to do.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "For eval: latest, best, or a step.")
DEVICES = flags.DEFINE_string(
    "devices", None, "For plan: a number, or a TPU slice such as v5e:2x4; else those that are here."
)
DEVICE_MEMORY_GIB = flags.DEFINE_float(
    "device_memory_gib", 0.0, "For plan: memory of one device; 0 asks the device.", lower_bound=0.0
)
ACCEPT_CHANGES = flags.DEFINE_bool(
    "accept_changes",
    False,
    "Go on with a run although its config (except model.*) or its data are not as before; the "
    "changes are printed and recorded.",
)
PROFILE = flags.DEFINE_string(
    "profile", "", "For train: steps to profile into WORKDIR/profile, FIRST:LAST such as 100:105."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Starts jax.distributed: host:port of process 0, or auto on clusters."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator=host:port.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator=host:port.")

EXAMPLE = "configs/s2mlp_digits.py"
NO_WORKDIR = "A --workdir is needed, such as /tmp/digits."


@command
def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise ValueError(f"Unknown arguments {' '.join(argv[1:])}.")
    from s2mlp_jax.progress import say
    from s2mlp_jax.train import devices as devices_lib  # after the flags, so that --help is quick
    from s2mlp_jax.train import processes, train_and_evaluate
    from s2mlp_jax.train.plan import plan
    from s2mlp_jax.train.restore import evaluate_workdir

    logging.set_verbosity(logging.ERROR)
    if MODE.value != "plan" and WORKDIR.value is None:
        raise ValueError(NO_WORKDIR)
    if PROFILE.value and MODE.value != "train":
        raise ValueError(f"--profile is for training, and --mode={MODE.value} does not train.")
    if COORDINATOR.value is not None and (code := processes.run_in_child()) is not None:
        return code
    processes.start_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if MODE.value == "eval":
        evaluate_workdir(WORKDIR.value, CHECKPOINT.value, CONFIG.value)
    elif CONFIG.value is None:
        raise ValueError(f"--mode={MODE.value} needs a --config, such as {EXAMPLE}.")
    elif MODE.value == "plan":
        devices = devices_lib.find_devices(DEVICES.value)
        for line in plan(CONFIG.value, devices, DEVICE_MEMORY_GIB.value):
            say(line)
    else:
        train_and_evaluate(
            CONFIG.value,
            WORKDIR.value,
            accept_changes=ACCEPT_CHANGES.value,
            profile=PROFILE.value,
        )
    return ExitCode.DONE


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; reports a mistake in them as one line, not a traceback."""
    try:
        argv = _with_config_of_run(argv)
        rest = flags.FLAGS(argv)
        if flags.FLAGS["config"].present:
            path = config_flags.get_config_filename(flags.FLAGS["config"])
            if not os.path.isfile(path.split(":")[0]):
                raise flags.Error(f"There is no config file {path}.")
    except (flags.Error, AttributeError, KeyError) as error:
        from s2mlp_jax.config import explain_flags  # a slow import, needed only here

        said = printable(explain_flags(argv, error), lines=True)
        print(f"Error: {said}", file=sys.stderr)
        sys.exit(ExitCode.BAD_INPUT)
    return rest


def _with_config_of_run(argv: list[str]) -> list[str]:
    """Adds the run's own config to an eval command that changes fields without a --config."""
    words = [word for argument in argv[1:] for word in argument.split("=", 1)]
    values = dict(itertools.pairwise(words))  # "--workdir=X" or "--workdir X"
    changes = any(word.startswith("--config.") for word in words)
    if values.get("--mode") != "eval" or "--config" in values or not changes:
        return argv
    if "--workdir" not in values:
        raise flags.Error(NO_WORKDIR)
    file = os.path.join(os.path.dirname(__file__), "s2mlp_jax", "saved", "config_of_run.py")
    return [argv[0], f"--config={file}:{values['--workdir']}", *argv[1:]]


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
