"""The cost of the augmentation on the device, compared with the whole training step.

    python -m benchmarks.augmentation --output=results/augmentation.md

Measures steps of the recipe at 224x224 pixels, with and without RandAugment, erasing, mixup and
cutmix, alternately; then each part of the augmentation alone. If dm-pix or augmax is installed,
its RandAugment operations are timed beside ours, and all results are compared with Pillow's.
"""

import importlib.util
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks import common
from s2mlp_jax import config as config_lib
from s2mlp_jax.data import on_device, randaugment
from s2mlp_jax.options import DTYPES
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.step import make_train_step
from s2mlp_jax.visualize import load_images

LEVEL = 9.0  # the recipe's magnitude, on a scale of 0 to 10
DEGREES = 30.0 * LEVEL / 10
BARE = {"augment.randaugment_ops": 0, "augment.erasing_prob": 0.0, "augment.mix_prob": 0.0}


def take_steps(config: ml_collections.ConfigDict) -> Callable[[], float]:
    """Returns a measurement of the config's training step, on a fixed batch."""
    run = create_experiment(config)
    batch = devices_lib.shard_batch(run.layout, next(run.train_batches(0)))
    step = make_train_step(run)
    state = run.draw_state()

    def take_step() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = step(state, batch, run.key)
        return metrics

    return common.seconds(take_step)


def steps(model: str, dtype: str, batch_size: int) -> dict[str, Callable[[], float]]:
    """Returns measurements of the training step, with and without augmentation on the device."""
    overrides = {"data.name": "synthetic", "train.batch_size": batch_size, "train.dtype": dtype}
    whole = config_lib.load_config(common.config_file(model), overrides)
    return {
        "whole recipe": take_steps(whole),
        "no augmentation": take_steps(config_lib.override(whole, BARE)),
    }


def parts(images: np.ndarray) -> dict[str, Callable[[], float]]:
    """Returns measurements of normalisation alone, and with RandAugment, erasing or mixing."""
    options = config_lib.to_options(config_lib.load_config(common.config_file("s2mlp_wide")))
    recipe, data, key = options.augment, options.data, jax.random.key(0)
    batch = {"image": jnp.asarray(images), "label": jnp.arange(len(images))}

    def only(*fields: str) -> Callable[[], float]:
        augmentation = recipe.only(**{field: getattr(recipe, field) for field in fields})

        @jax.jit
        def augment(key: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return on_device.training_batch(
                key, batch, augmentation, data.mean, data.std, 1000, 0.1
            )

        return common.seconds(augment, key, batch)

    return {
        "normalise alone": only(),
        "and RandAugment": only("randaugment_ops"),
        "and erasing": only("erasing_prob"),
        "and mixup, cutmix": only("mixup_alpha", "cutmix_alpha"),
    }


class Rival(typing.NamedTuple):
    """An operation in other libraries, and in Pillow as the reference."""

    operation: str
    pillow: Callable[[Image.Image], Image.Image]
    libraries: dict[str, Callable[[jax.Array], jax.Array]]  # one image of floats in [0, 1]


def rivals() -> list[Rival]:
    """Returns the operations at level 9 that dm-pix or augmax, if installed, also have."""
    factor = 1.0 + 0.9 * LEVEL / 10
    threshold = 256 - int(256 * LEVEL / 10)
    found: dict[str, dict[str, Callable[[jax.Array], jax.Array]]] = {
        name: {} for name in ("rotate", "solarize", "contrast", "color")
    }
    if importlib.util.find_spec("dm_pix"):
        import dm_pix

        found["rotate"]["dm-pix"] = lambda x: dm_pix.rotate(x, np.deg2rad(DEGREES), mode="constant")
        found["solarize"]["dm-pix"] = lambda x: dm_pix.solarize(x, threshold / 255)
        found["contrast"]["dm-pix"] = lambda x: dm_pix.adjust_contrast(x, factor)
        found["color"]["dm-pix"] = lambda x: dm_pix.adjust_saturation(x, factor)
    if importlib.util.find_spec("augmax"):
        import augmax  # type: ignore[import-not-found]

        rotate = augmax.Chain(augmax.Rotate((DEGREES, DEGREES)))
        found["rotate"]["augmax"] = lambda x: rotate(jax.random.key(0), x)
    bicubic = Image.Resampling.BICUBIC
    pillow: dict[str, Callable[[Image.Image], Image.Image]] = {
        "rotate": lambda image: image.rotate(DEGREES, resample=bicubic),
        "solarize": lambda image: ImageOps.solarize(image, threshold),
        "contrast": lambda image: ImageEnhance.Contrast(image).enhance(factor),
        "color": lambda image: ImageEnhance.Color(image).enhance(factor),
    }
    return [Rival(name, pillow[name], libraries) for name, libraries in found.items()]


def compare_libraries(images: np.ndarray, rounds: int) -> list[list[str]]:
    """Returns table rows: operation and library, time per image, differences from Pillow."""
    count, on_device = len(images), jnp.asarray(images)
    rows = []
    for rival in rivals():
        expected = np.stack([np.asarray(rival.pillow(Image.fromarray(x))) for x in images])
        operation = jnp.full(count, randaugment.OPERATIONS.index(rival.operation))

        @jax.jit
        def ours(images: jax.Array, operation: jax.Array = operation) -> jax.Array:
            level, negate = jnp.full(count, LEVEL), jnp.zeros(count, bool)
            return randaugment.apply_operations(images, operation, level, negate, (0, 0, 0))

        def batched(one: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
            def apply(images: jax.Array) -> jax.Array:
                floats = jax.vmap(one)(images.astype(jnp.float32) / 255)
                return jnp.clip(jnp.round(floats * 255), 0, 255).astype(jnp.uint8)

            return jax.jit(apply)

        candidates: dict[str, Callable[[jax.Array], jax.Array]] = {
            "ours, a layer of all fifteen": ours
        }
        candidates |= {name: batched(one) for name, one in rival.libraries.items()}
        measured = {name: common.seconds(f, on_device) for name, f in candidates.items()}
        times = common.alternate(measured, rounds, 1)
        for name, function in candidates.items():
            error = np.abs(np.asarray(function(on_device)).astype(int) - expected)
            rows.append(
                [
                    f"{rival.operation}: {name}",
                    common.median(times[name], 2, 1e3 / count),
                    f"{error.mean():.3f}",
                    f"{(error > 1).mean():.1%}",
                ]
            )
    return rows


def main() -> None:
    """Runs the benchmark."""
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
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
    library_rows = compare_libraries(images, args.rounds)
    summed = sum(
        np.median(alone[name]) - np.median(alone["normalise alone"])
        for name in alone
        if name != "normalise alone"
    )
    notes = (
        f"Training step of {args.model}, batch {args.batch_size}, {args.dtype}, 224x224 pixels, "
        f"synthetic images. Medians over {args.rounds} rounds, measured in turn; the "
        f"inter-quartile range is in brackets. The augmentation takes {share:.1%} of the step "
        f"according to the difference of the two, and {summed / np.median(whole):.1%} according to "
        "the sum of its parts."
    )
    common.publish(
        [
            top,
            notes,
            common.table(["step", "ms per image"], step_rows),
            common.table(["part", "ms per image"], part_rows),
            "The operations that dm-pix or augmax also have, at the recipe's level, compared with "
            "Pillow: mean difference in levels of 255, and the fraction of values that differ by "
            "more than one level. In our layer every image passes through all stages, for any "
            "operation. A library's function does only one operation; choosing one of fifteen for "
            "each image of a batch would compute all of them.",
            common.table(["operation", "ms per image", "levels off", "above 1"], library_rows),
        ],
        args.output,
    )


if __name__ == "__main__":
    main()
