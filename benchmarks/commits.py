"""Compares time and memory of a training step between this checkout and another commit.

    python -m benchmarks.commits 46211f7 --dtype=bfloat16 --output=results/float32_sums.md

Instead of a commit, it also accepts a folder with another copy of the repository, for machines
without git.

Measures the loss of a batch and its gradient, without optimizer and augmentation, for models with
their default fields. There is one process per commit; the processes take turns, so that both see
the same load on the machine. For a GPU, use --batch_size=512 --depth=0.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator

from benchmarks import common

Step = Callable[[], float]  # takes one step and returns its seconds

MODELS = (
    *("s2mlp_wide", "s2mlp_deep", "mlp_mixer_b16", "resmlp_12", "s2mlp_v2_small_7"),
    *("vip_small_7", "as_mlp_t", "deit_s", "resnet_50"),
)

# The program of a worker. It uses only the public API, so that it runs in a checkout of any commit.
# It compiles, prints the bytes of temporaries, and then takes one step per line of its stdin.
_WORKER = """
import json, sys, time
import jax, jax.numpy as jnp, optax
import s2mlp_jax

name, dtype, batch_size, depth = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
fields = {"drop_path": 0.0}
if depth:
    fields["depth"] = depth
    later = s2mlp_jax.create_model(name).variant.later_depths
    fields |= {"later_depths": tuple(min(depth, n) for n in later)} if later else {}
model = s2mlp_jax.create_model(name, dtype=getattr(jnp, dtype), **fields)
variables = s2mlp_jax.init(model, jax.random.key(0))
params = variables.pop("params")

def loss(params, images, labels):
    logits, _ = model.apply(
        {"params": params, **variables}, images, train=True, mutable=list(variables)
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

images = jax.random.normal(jax.random.key(1), (batch_size, 224, 224, 3))
labels = jnp.arange(batch_size) % 1000
step = jax.jit(jax.value_and_grad(loss)).lower(params, images, labels).compile()
jax.block_until_ready(step(params, images, labels))
print(json.dumps(step.memory_analysis().temp_size_in_bytes), flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    jax.block_until_ready(step(params, images, labels))
    print(json.dumps(time.perf_counter() - start), flush=True)
"""


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[pathlib.Path]:
    """Yields a temporary folder with the files of a commit; yields an existing folder itself."""
    if pathlib.Path(commit).is_dir():
        yield pathlib.Path(commit).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "checkout"
        git = ["git", "-C", str(common.ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(path), commit], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


@contextlib.contextmanager
def worker(folder: pathlib.Path, *arguments: str) -> Iterator[tuple[int, Step]]:
    """Starts a process in a checkout; yields its bytes of temporaries, and its step function."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, *arguments],
        cwd=folder,
        # Several processes share the GPU's memory, so none may preallocate most of it.
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def answer() -> typing.Any:
        line = stdout.readline()
        if not line:
            raise SystemExit(f"The process of {folder} ended; its error stands above.")
        return json.loads(line)

    def step() -> float:
        stdin.write("\n")
        stdin.flush()
        return answer()

    try:
        yield answer(), step
    finally:
        stdin.close()
        process.wait()


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument(
        "commit", help="commit to compare with: a hash, a branch, HEAD~1, or a folder"
    )
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument(
        "--depth", type=int, default=2, help="largest number of blocks per stage; 0: all"
    )
    args = parser.parse_args()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process computes nothing
    top = common.header("A training step, this commit and another")
    rows = []
    with checkout(args.commit) as other:
        for model in args.models.split(","):
            how = (model, args.dtype, str(args.batch_size), str(args.depth))
            with worker(common.ROOT, *how) as (here, now), worker(other, *how) as (there, before):
                figures = common.alternate({"now": now, "before": before}, args.rounds)
            rows.append(
                [
                    model,
                    common.ratio(figures["now"], figures["before"]),
                    f"{here / there:.2f}",
                    common.milliseconds(figures["now"]),
                    common.milliseconds(figures["before"]),
                    f"{here / 2**20:,.0f}",
                    f"{there / 2**20:,.0f}",
                ]
            )
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    columns = ["", "time, now / before", "memory, now / before", "now ms", "before ms"]
    columns += ["now MiB", "before MiB"]
    depth = f"at most {args.depth} blocks a stage" if args.depth else "all blocks"
    notes = (
        f"Before: {args.commit}. Batch {args.batch_size} of 224x224 pixels, {args.dtype}, "
        f"{depth}. Times are medians over {args.rounds} rounds, in brackets the inter-quartile "
        "range; memory is that of the compiled program's temporaries."
    )
    common.publish([top, notes, common.table(columns, rows)], args.output)


if __name__ == "__main__":
    main()
