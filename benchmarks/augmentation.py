"""What the augmentation on the device costs: against the training step that it is part of.

    python -m benchmarks.augmentation --output=results/augmentation.md

Steps of the recipe at 224x224 pixels, with and without RandAugment, erasing, mixup and cutmix,
by turns; then the parts of the augmentation alone. Where dm-pix is installed, its rotation is
timed beside ours, and both are compared with Pillow's pixels.
"""

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from benchmarks import common
from s2mlp_jax import config as config_lib
from s2mlp_jax import parallel
from s2mlp_jax.data import mix, randaugment
from s2mlp_jax.experiment import create_experiment
from s2mlp_jax.train import make_train_step
from s2mlp_jax.visualize import load_images

DEGREES = 27.0  # the recipe's level 9 of 10
BARE = {"augment.randaugment_ops": 0, "augment.erasing_prob": 0.0, "augment.mix_prob": 0.0}


def take_steps(config: ml_collections.ConfigDict) -> Callable[[], float]:
    """Returns a measurement of the config's training step, on a fixed batch."""
    run = create_experiment(config)
    batch = parallel.shard_batch(run.layout, next(run.train_batches(0)))
    step = make_train_step(config, run.model, run.optimizer, run.schedule, run.layout)
    state = run.draw_state()

    def take_step() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = step(state, batch, run.key)
        return metrics

    return common.seconds(take_step)


def steps(model: str, dtype: str, batch_size: int) -> dict[str, Callable[[], float]]:
    """Returns the training step of the whole recipe, and of one without the device's part."""
    overrides = {"data.name": "synthetic", "train.batch_size": batch_size, "train.dtype": dtype}
    whole = config_lib.load_config(common.config_file(model), overrides)
    return {
        "whole recipe": take_steps(whole),
        "no augmentation": take_steps(config_lib.override(whole, BARE)),
    }


def parts(images: np.ndarray) -> dict[str, Callable[[], float]]:
    """Returns RandAugment, erasing and mixing, each alone."""
    config = config_lib.load_config(common.config_file("s2mlp_wide"))
    recipe, data, key = config_lib.make_augmentation(config), config.data, jax.random.key(0)
    batch = {"image": jnp.asarray(images), "label": jnp.arange(len(images))}

    def only(*fields: str) -> Callable[[], float]:
        augmentation = recipe.only(**{field: getattr(recipe, field) for field in fields})

        @jax.jit
        def augment(key: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return mix.training_batch(key, batch, augmentation, data.mean, data.std, 1000, 0.1)

        return common.seconds(augment, key, batch)

    return {
        "normalise alone": only(),
        "and RandAugment": only("randaugment_ops"),
        "and erasing": only("erasing_prob"),
        "and mixup, cutmix": only("mixup_alpha", "cutmix_alpha"),
    }


def rotations(images: np.ndarray) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    """Returns our rotation and dm-pix's, and how far each is from Pillow's pixels."""
    count, rotate = len(images), randaugment.OPERATIONS.index("rotate")
    pillow = np.stack(
        [
            np.asarray(Image.fromarray(x).rotate(DEGREES, resample=Image.Resampling.BICUBIC))
            for x in images
        ]
    )
    operation = jnp.full(count, rotate)
    level, negate = jnp.full(count, DEGREES / 3), jnp.zeros(count, bool)

    @jax.jit
    def ours(images: jax.Array) -> jax.Array:
        return randaugment.apply_operations(images, operation, level, negate, (0, 0, 0))

    candidates = {"ours, every operation": ours}
    if importlib.util.find_spec("dm_pix"):
        import dm_pix  # type: ignore[import-not-found]

        @jax.jit
        def theirs(images: jax.Array) -> jax.Array:
            turned = jax.vmap(lambda x: dm_pix.rotate(x, np.deg2rad(DEGREES), order=1))(
                images.astype(jnp.float32) / 255
            )
            return jnp.round(turned * 255).astype(jnp.uint8)

        candidates["dm-pix, rotation alone (linear)"] = theirs
    difference = {}
    for name, function in candidates.items():
        error = np.abs(np.asarray(function(images)).astype(int) - pillow)
        difference[name] = f"{error.mean():.3f} mean, {(error > 1).mean():.1%} above 1"
    measured = {name: common.seconds(f, jnp.asarray(images)) for name, f in candidates.items()}
    return measured, difference


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--dtype", choices=list(config_lib.DTYPES), default="float32")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--model", default="s2mlp_wide")
    args = parser.parse_args()
    top = common.header("Augmentation on the device")
    photographs = [image[60:284, 100:324] for image in load_images("")]
    images = np.stack([photographs[i % 2] for i in range(args.batch_size)])

    times = common.alternate(steps(args.model, args.dtype, args.batch_size), args.rounds, 1)
    whole, bare = times["whole recipe"], times["no augmentation"]
    share = np.median(np.subtract(whole, bare) / np.asarray(whole))
    per_image = 1.0 / args.batch_size
    step_rows = [[name, common.median(f, 1, 1e3 * per_image)] for name, f in times.items()]
    alone = common.alternate(parts(images), args.rounds, 1)
    part_rows = [[name, common.median(f, 2, 1e3 * per_image)] for name, f in alone.items()]
    measured, difference = rotations(images)
    turned = common.alternate(measured, args.rounds, 1)
    rotation_rows = [
        [name, common.median(f, 2, 1e3 * per_image), difference[name]] for name, f in turned.items()
    ]
    summed = sum(
        np.median(alone[name]) - np.median(alone["normalise alone"])
        for name in alone
        if name != "normalise alone"
    )
    notes = (
        f"Training step of {args.model}, batch {args.batch_size}, {args.dtype}, 224x224 pixels, "
        f"synthetic images. Medians over {args.rounds} rounds, by turns; in brackets the "
        f"inter-quartile range. The augmentation takes {share:.1%} of the step by the difference "
        f"of the two, and {summed / np.median(whole):.1%} by the sum of its parts alone."
    )
    common.publish(
        [
            top,
            notes,
            common.table(["step", "ms an image"], step_rows),
            common.table(["part", "ms an image"], part_rows),
            common.table(
                ["rotation by 27 degrees", "ms an image", "levels from Pillow's bicubic"],
                rotation_rows,
            ),
        ],
        args.output,
    )


if __name__ == "__main__":
    main()
