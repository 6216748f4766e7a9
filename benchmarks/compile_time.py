"""How long the training step takes to trace and to compile, for the deep and the wide model.

    python -m benchmarks.compile_time --output=results/compile_time.md

A small batch of 224x224 images; the time does not depend on the batch. All inputs are shapes,
no weights are drawn. Every repeat starts with empty caches. Tracing is from Python to
StableHLO (`lower`), compiling is XLA's part.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from s2mlp_jax import config as config_lib
from s2mlp_jax.train.experiment import create_experiment
from s2mlp_jax.train.step import make_train_step

MODELS = ("s2mlp_deep", "s2mlp_wide")


def measure(model: str, dtype: str, batch_size: int) -> tuple[float, float, int]:
    """Traces and compiles once; returns the seconds of each, and the number of blocks."""
    overrides = {"data.name": "synthetic", "train.batch_size": batch_size, "train.dtype": dtype}
    config = config_lib.load_config(common.config_file(model), overrides)
    run = create_experiment(config)
    arguments = run.abstract_step_arguments()
    step = make_train_step(run)
    jax.clear_caches()  # the abstract state, too, was traced through the model
    start = time.perf_counter()
    lowered = step.lower(*arguments)
    traced = time.perf_counter()
    lowered.compile()
    return traced - start, time.perf_counter() - traced, config.model.depth


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--dtype", choices=list(config_lib.DTYPES), default="float32")
    parser.add_argument("--batch_size", type=int, default=2)
    args = parser.parse_args()
    top = common.header("Time to compile")  # before the work, for the load that others cause
    jax.config.update("jax_enable_compilation_cache", False)  # the one on disk, where one is set
    # The first compilation of a process also pays for the start of XLA.
    jax.jit(jnp.sin).lower(1.0).compile()
    seconds: dict[str, list[tuple[float, float, int]]] = {model: [] for model in MODELS}
    for _ in range(args.rounds):
        for model in MODELS:
            seconds[model].append(measure(model, args.dtype, args.batch_size))
    rows = []
    for model, figures in seconds.items():
        trace, compile_, depth = np.transpose(figures)
        rows.append(
            [
                model,
                f"{depth[0]:.0f}",
                common.median(trace),
                common.median(compile_),
                common.ratio(compile_, trace),
                common.milliseconds(trace / depth),
                common.milliseconds(compile_ / depth),
            ]
        )
    columns = ["", "blocks", "trace s", "compile s", "compile / trace"]
    columns += ["trace ms a block", "compile ms a block"]
    notes = (
        f"Training step, batch {args.batch_size}, {args.dtype}. Medians over {args.rounds} "
        "repeats, models by turns; in brackets the inter-quartile range."
    )
    common.publish([top, notes, common.table(columns, rows)], args.output)


if __name__ == "__main__":
    main()
