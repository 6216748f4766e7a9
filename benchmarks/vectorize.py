"""Training runs as one program against taking turns.

    python -m benchmarks.vectorize --output=results/vectorize.md

For groups of runs of the digits shift sweep: how long a training step of all of them takes, on
the device's data. Loading data, compiling and evaluating are left out.
"""

import time
import typing
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from benchmarks import common
from s2mlp_jax.experiment import Experiment
from s2mlp_jax.sweep_runs import open_sweep
from s2mlp_jax.together import make_stacked_step
from s2mlp_jax.train import make_train_step

GROUPS = (("a", 3), ("a", 8), ("a,e,none", 3), ("", 3))  # settings ("" for all 11), seeds
STEPS = 5  # a measurement


def take(step: Callable[..., typing.Any], states: list[typing.Any], inputs: typing.Any) -> float:
    """Takes some steps of every state, and keeps the new ones; returns the seconds a step."""
    start = time.perf_counter()
    for _ in range(STEPS):
        for i, state in enumerate(states):
            states[i], _ = step(i)(state, *inputs[i])
    jax.block_until_ready(states)
    return (time.perf_counter() - start) / STEPS


def candidates(runs: Sequence[Experiment]) -> dict[str, Callable[[], float]]:
    """Returns the two ways to train these runs."""
    batch = jax.device_put(next(runs[0].train_batches(0)))
    steps = {
        shift: make_train_step(run.config, run.model, run.optimizer, run.schedule, run.layout)
        for shift, run in {run.model.variant.shift: run for run in runs}.items()
    }
    turns = [run.draw_state() for run in runs]
    together = [jax.tree.map(lambda *x: jnp.stack(x), *(run.draw_state() for run in runs))]
    streams = len({run.config.seed for run in runs})
    stacked = make_stacked_step(runs)
    batches = jax.tree.map(lambda x: jnp.stack([x] * streams), batch)
    keys = jnp.stack([run.key for run in runs])
    return {
        "in turns": lambda: take(
            lambda i: steps[runs[i].model.variant.shift], turns, [(batch, run.key) for run in runs]
        ),
        "together": lambda: take(lambda _: stacked, together, [(batches, keys)]),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--data_dir", default="", help="of prepared data")
    args = parser.parse_args()
    top = common.header("Runs as one program")
    config = common.config_file("ablation_shift")
    rows = []
    for settings, seeds in GROUPS:
        sweep = open_sweep(config, {"data.data_dir": args.data_dir}, seeds, settings)
        bases = {
            run.setting: sweep.experiment(run, jax.devices()[:1]) for run in reversed(sweep.runs)
        }
        runs = [bases[run.setting].with_seed(run.seed) for run in sweep.runs]
        figures = common.alternate(candidates(runs), args.rounds, warmup=1)
        rows.append(
            [
                f"{len(sweep.runs) // seeds} patterns x {seeds} seeds",
                str(len(runs)),
                common.milliseconds(figures["in turns"]),
                common.milliseconds(figures["together"]),
                common.ratio(figures["in turns"], figures["together"]),
            ]
        )
    columns = ["", "runs", "in turns, ms", "together, ms", "in turns / together"]
    notes = (
        f"A step of every run, batch 64; medians over {args.rounds} rounds of {STEPS} "
        "steps, the two by turns; in brackets the inter-quartile range. A last column above 1 "
        "means that together they are quicker."
    )
    common.publish([top, notes, common.table(columns, rows)], args.output)


if __name__ == "__main__":
    main()
