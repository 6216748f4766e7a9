"""Whether a killed and resumed run ends bit for bit like an undisturbed run."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping

from benchmarks import common
from benchmarks.accelerator.schedule import Options, Record

# By default, GPUs may add in any order.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

_RUN = """
import json, sys
from benchmarks import common
from benchmarks.accelerator import images
from s2mlp_jax import config as config_lib
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.loop import train

folder, overrides = sys.argv[1], json.loads(sys.argv[2])
config = config_lib.load_config(common.config_file("s2mlp_digits"), overrides)
train(create_experiment(config, splits=images.digits()), folder)
"""


def measure(options: Options, name: str) -> Iterator[Record]:
    """Yields the last evaluations of the undisturbed and the resumed run."""
    epochs = 3 if options.on_cpu else 15
    overrides = {
        "model.depth": 1 if options.on_cpu else 8,
        "train.epochs": float(epochs),
        "optimizer.warmup_epochs": 1.0,
        "eval.every_epochs": 1.0,
        "checkpoint.every_epochs": 1.0,
        "log.tensorboard": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = (pathlib.Path(folder) / n for n in ("undisturbed", "killed"))
        run(undisturbed, overrides)
        kill_after = last_saved(undisturbed) // 3
        run(killed, overrides, kill_after)
        left_at = last_saved(killed)
        run(killed, overrides)
        expected, got = last_evaluation(undisturbed), last_evaluation(killed)
        yield {
            "name": "s2mlp_digits",
            "killed after step": left_at,
            "steps": last_saved(undisturbed),
            "undisturbed, loss": expected["eval/loss"],
            "resumed, loss": got["eval/loss"],
            "equal": expected == got,
        }


def run(folder: pathlib.Path, overrides: Mapping[str, object], kill_after: int = 0) -> None:
    """Trains in a new process, which is killed once it has saved step `kill_after` (0: never).

    Raises:
      RuntimeError: if the process fails or ends before it is killed.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(folder), json.dumps(overrides)],
        cwd=common.ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
    )
    while kill_after and process.poll() is None:
        if last_saved(folder) >= kill_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.02)
    if process.wait() or kill_after:
        raise RuntimeError(f"the run ended with exit code {process.returncode}")


def last_saved(folder: pathlib.Path) -> int:
    """Returns the step of the last complete checkpoint; 0 if there is none."""
    checkpoints = folder / "checkpoints"
    names = os.listdir(checkpoints) if checkpoints.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def last_evaluation(folder: pathlib.Path) -> dict[str, float]:
    """Returns the figures of a run's last evaluation."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "eval/loss" in line][-1]
    return {k: v for k, v in last.items() if k == "step" or k.startswith("eval")}
