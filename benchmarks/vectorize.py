"""Training runs as one program against taking turns.

    python -m benchmarks.vectorize --output=results/vectorize.md

For groups of runs of the digits shift sweep: how long a training step of all of them takes, on
the device's data. Loading data, compiling and evaluating are left out.
"""

import jax

from benchmarks import common
from s2mlp_jax.sweep.settings import open_sweep
from s2mlp_jax.sweep.together import timed_steps

GROUPS = (("a", 3), ("a", 8), ("a,e,none", 3), ("", 3))  # settings ("" for all 11), seeds


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
        runs = sweep.experiments(sweep.runs, jax.devices()[:1])
        figures = common.alternate(timed_steps(runs), args.rounds, warmup=1)
        rows.append(
            [
                f"{seeds} seeds of {len(sweep.runs) // seeds} pattern(s)",
                str(len(runs)),
                common.milliseconds(figures["in turns"]),
                common.milliseconds(figures["together"]),
                common.ratio(figures["in turns"], figures["together"]),
            ]
        )
    columns = ["", "runs", "in turns, ms", "together, ms", "in turns / together"]
    notes = (
        f"A step of every run, batch 64; in turns it is the first run's step times the number of "
        f"runs. Medians over {args.rounds} rounds of ten steps, the two alternated; in brackets "
        "the inter-quartile range. A last column above 1 means that together they are quicker."
    )
    common.publish([top, notes, common.table(columns, rows)], args.output)


if __name__ == "__main__":
    main()
