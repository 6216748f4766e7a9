"""What checksums and locks cost when a run is saved.

    python -m benchmarks.saving --output=results/saving.md

Saves the state of a model as a run does (weights, two moments of AdamW, average), and measures the
parts: the checksums of all arrays, the lock of a folder, and the save until it is complete. A save
writes to a temporary folder; set TMPDIR to measure another disk.
"""

import pathlib
import shutil
import tempfile
import time

import jax
import jax.numpy as jnp
import optax

import s2mlp_jax
from benchmarks import common
from s2mlp_jax.lock import locked
from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.checksums import checksums

MODELS = ("s2mlp_digits", "s2mlp_deep", "s2mlp_wide")


def state_of(name: str) -> dict[str, object]:
    """Returns a state of random numbers, in the shapes that a run of a model saves."""
    model = s2mlp_jax.create_model(name, 1000)
    size = 8 if name == "s2mlp_digits" else 224
    params = s2mlp_jax.init(model, jax.random.key(0), size)["params"]
    opt_state = optax.adamw(1e-3).init(params)
    state = {"params": params, "opt_state": opt_state, "ema_params": params}
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(state))))

    def draw(x: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.random.normal(next(keys), x.shape, x.dtype) if floating else x

    return jax.block_until_ready(jax.tree.map(draw, state))


def main() -> None:
    """Measures and prints."""
    flags = common.parser(__doc__, rounds=5).parse_args()
    rows = []
    for name in MODELS:
        state = state_of(name)
        size = sum(x.nbytes for x in jax.tree.leaves(state))

        def save(state: dict[str, object] = state) -> float:
            with tempfile.TemporaryDirectory() as folder:
                checkpoints = Checkpoints(folder)
                start = time.perf_counter()
                checkpoints.save(1, state, {"step": 1})
                checkpoints.check(wait=True)
                seconds = time.perf_counter() - start
                checkpoints.close()
                shutil.rmtree(folder)
                pathlib.Path(folder).mkdir()
            return seconds

        def sums(state: dict[str, object] = state) -> float:
            start = time.perf_counter()
            checksums(state)
            return time.perf_counter() - start

        def lock() -> float:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                with locked(pathlib.Path(folder) / ".lock", "measuring"):
                    return time.perf_counter() - start

        figures = common.alternate({"save": save, "sums": sums, "lock": lock}, flags.rounds, 1)
        rows.append(
            [
                name,
                f"{len(jax.tree.leaves(state)):,}",
                f"{size / 2**20:,.1f}",
                common.milliseconds(figures["save"]),
                common.milliseconds(figures["sums"]),
                common.ratio(figures["sums"], figures["save"]),
                common.milliseconds(figures["lock"]),
            ]
        )
    columns = ["state of", "arrays", "MiB", "save ms", "checksums ms", "ratio", "lock ms"]
    common.publish(
        [
            common.header("Cost of checksums and locks"),
            "Median and inter-quartile range. A save includes its checksums, and ends when all "
            "files are complete; a run goes on while they are written.",
            common.table(columns, rows),
        ],
        flags.output,
    )


if __name__ == "__main__":
    main()
