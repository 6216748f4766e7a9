"""Images per second from prepared ImageNet records to batches in device memory, ours and others'.

    python -m benchmarks.input_pipeline --data_dir=... --output=results/input_pipeline.md

data_dir contains imagenet2012 and imagenet2012_256, its copy with the short side at 256 pixels,
both written by `python -m s2mlp_jax.data.prepare`. A few dozen images are enough, since they are
repeated. Every pipeline makes bicubic random resized crops of 224 pixels with random flips, in
uint8 batches, and ends with the batch in device memory:

- ours: `train_batches` and `shard_batch`, as in the training loop, with one thread per core.
- tf.data: parse, sample_distorted_bounding_box, decode_and_crop_jpeg, resize, batch, prefetch, all
  with AUTOTUNE and in any order. It reads the same records from a TFRecord file, as it cannot
  read ArrayRecord. Its bicubic resize is usually used without antialiasing; a separate row has
  antialiasing, as Pillow and our pipeline do.
- DataLoader: Pillow and torchvision's transforms with one worker process per core, if torch is
  installed (--torch_python names another interpreter that has it).

Each pipeline runs in its own process. The processes take turns in producing some batches; a turn
starts when all other processes have filled their buffers and are idle. Buffered batches are
discarded before the clock starts.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import psutil

from benchmarks import common
from benchmarks.pipelines import FULL, PIPELINES, SMALL


def serve(pipeline: str, name: str, data_dir: str, batch_size: int) -> None:
    """Reads numbers of batches from stdin; prints images per second and CPU ms per image."""
    batches = PIPELINES[pipeline](name, data_dir, batch_size)
    me = psutil.Process()

    def cpu_seconds() -> float:
        times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    for line in sys.stdin:
        count = int(line)
        for _ in range(24):  # discards buffered batches; also warms up
            jax.block_until_ready(next(batches))
        start, cpu = time.perf_counter(), cpu_seconds()
        for _ in range(count):
            jax.block_until_ready(next(batches))
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        images = count * batch_size
        print("measured", json.dumps([images / seconds, 1e3 * cpu / images]), flush=True)
    os._exit(0)  # without waiting for threads and workers


class Candidate:
    """A pipeline on a data set, in its own process."""

    def __init__(
        self, python: str, pipeline: str, name: str, data_dir: str, batch_size: int, count: int
    ) -> None:
        arguments = {"serve": pipeline, "name": name, "data_dir": data_dir}
        arguments["batch_size"] = str(batch_size)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.input_pipeline"]
            + [f"--{flag}={value}" for flag, value in arguments.items()],
            cwd=common.ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._count, self._psutil = count, psutil.Process(self._process.pid)
        self.cpu_milliseconds: list[float] = []

    def is_idle(self) -> bool:
        """Returns whether the process and its children are idle for 0.1 s."""
        family = [self._psutil, *self._psutil.children(recursive=True)]

        def used() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in family)

        before = used()
        time.sleep(0.1)
        return used() - before < 0.02

    def measure(self) -> float:
        """Returns the images per second."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{self._count}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("measured "):
                rate, milliseconds = json.loads(line.removeprefix("measured "))
                self.cpu_milliseconds.append(milliseconds)
                return rate
        raise RuntimeError("A pipeline's process ended; see its message above.")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def has_torch(python: str) -> bool:
    """Returns whether an interpreter has torch and torchvision."""
    if python == sys.executable:
        return all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))
    return not subprocess.run([python, "-c", "import torch, torchvision"], check=False).returncode


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument(
        "--data_dir", required=True, help="folder of the prepared imagenet2012 and imagenet2012_256"
    )
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument(
        "--batches", type=int, default=32, help="batches per measurement; default 32"
    )
    parser.add_argument("--torch_python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--serve", help="used by this script itself, as is --name")
    parser.add_argument("--name", default=FULL)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.name, args.data_dir, args.batch_size)
    top = common.header("Input pipeline")
    pipelines = [p for p in PIPELINES if p != "DataLoader" or has_torch(args.torch_python)]
    candidates = {
        (name, pipeline): Candidate(
            args.torch_python if pipeline == "DataLoader" else sys.executable,
            pipeline,
            name,
            args.data_dir,
            args.batch_size,
            args.batches,
        )
        for name in (FULL, SMALL)
        for pipeline in pipelines
    }
    labels = {f"{pipeline} | {name}": key for key in candidates for name, pipeline in (key,)}

    def measure(candidate: Candidate) -> float:
        while not all(other.is_idle() for other in candidates.values() if other.cpu_milliseconds):
            pass
        return candidate.measure()

    measurements = {
        label: functools.partial(measure, candidates[key]) for label, key in labels.items()
    }
    rates = common.alternate(measurements, args.rounds, warmup=1)
    parts = [top, _notes(args.batch_size, args.batches, args.rounds)]
    for name in (FULL, SMALL):
        rows = []
        for pipeline in pipelines:
            figures, of = rates[f"{pipeline} | {name}"], candidates[name, pipeline]
            rows.append(
                [
                    pipeline,
                    common.median(figures, digits=0),
                    common.ratio(figures, rates[f"tf.data | {name}"]),
                    common.ratio(figures, rates[f"tf.data | {FULL}"]),
                    f"{np.median(of.cpu_milliseconds[1:]):.2f}",
                ]
            )
            of.close()
        columns = ["", "images/s", "/ tf.data", f"/ tf.data on {FULL}", "CPU ms per image"]
        parts += [f"## {name}", common.table(columns, rows)]
    common.publish(parts, args.output)


def _notes(batch_size: int, batches: int, rounds: int) -> str:
    return (
        f"Batches of {batch_size}, {batches} per measurement. Medians over {rounds} rounds, each "
        "of which measures every pipeline once; the inter-quartile range is in brackets. Ratios "
        "are medians of the ratios per round. The CPU time includes all threads and processes of a "
        "pipeline. Unlike the rate it does not depend on other programs, but it does not show "
        "waiting."
    )


if __name__ == "__main__":
    main()
