"""The device's augmentation: against Pillow on photographs, and against what its papers say."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from s2mlp_jax.config import load_config, to_options
from s2mlp_jax.data import on_device, randaugment
from s2mlp_jax.train import devices as devices_lib
from tests.helpers import OPTIMIZED, ROOT, tiny_config

FILL = (124, 116, 104)
RECIPE = to_options(load_config(str(ROOT / "configs/s2mlp_wide.py"))).augment
POINTWISE, BLENDS = randaugment.OPERATIONS[:10], randaugment.OPERATIONS[6:10]


@functools.cache
def photographs() -> list[np.ndarray]:
    """Real photographs, 224x224: two from scikit-learn, ImageNet's where they are at hand."""
    views = [image[60:284, 100:324] for image in load_sample_images().images]
    for path in sorted((ROOT.parent / "shared/data/imagenet_sample").glob("*.JPEG"))[:6]:
        picture = Image.open(path).convert("RGB")
        views.append(np.asarray(ImageOps.fit(picture, (224, 224))))
    # A flat one and one of two levels: nothing to stretch, nothing to equalize.
    views.append(np.full((224, 224, 3), 77, np.uint8))
    views.append(np.repeat(np.uint8([[[10, 0, 255]], [[11, 255, 255]]]), 112, 0).repeat(224, 1))
    return views


def pillow(image: np.ndarray, name: str, level: float, negate: bool) -> np.ndarray:
    """What the reference does: Pillow's operation with timm's argument for the level."""
    picture, part, sign = Image.fromarray(image), level / 10, -1 if negate else 1
    factor = max(0.1, 1 + sign * 0.9 * part)

    def affine(*matrix: float) -> Image.Image:
        how = {"resample": Image.Resampling.BICUBIC, "fillcolor": FILL}
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, **how)

    def solarize_add(value: int) -> int:
        return min(255, value + min(128, int(part * 110))) if value < 128 else value

    results = {
        "auto_contrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "invert": lambda: ImageOps.invert(picture),
        "posterize": lambda: ImageOps.posterize(picture, 4 - int(part * 4)),
        "solarize": lambda: ImageOps.solarize(picture, 256 - min(256, int(part * 256))),
        "solarize_add": lambda: picture.point([solarize_add(i) for i in range(256)] * 3),
        "color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "rotate": lambda: picture.rotate(
            sign * 30 * part, resample=Image.Resampling.BICUBIC, fillcolor=FILL
        ),
        "shear_x": lambda: affine(1, sign * 0.3 * part, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, sign * 0.3 * part, 1, 0),
        "translate_x": lambda: affine(1, 0, sign * 0.45 * part * picture.width, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, sign * 0.45 * part * picture.height),
    }
    return np.asarray(results[name]())


@functools.cache
def apply_operations() -> jax.stages.Wrapped:
    apply = functools.partial(randaugment.apply_operations, fill=FILL)
    return jax.jit(apply, compiler_options=OPTIMIZED)


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_operations_are_those_of_pillow(name: str) -> None:
    images = np.stack(photographs())
    count, worst = len(images), 0.0
    operation = np.full(count, randaugment.OPERATIONS.index(name))
    for level in (0.0, 3.3, 9.0, 9.7):
        for negate in (False, True):
            ours = apply_operations()(
                images, operation, np.full(count, level, np.float32), np.full(count, negate)
            )
            theirs = np.stack([pillow(image, name, level, negate) for image in images])
            difference = np.abs(np.asarray(ours).astype(int) - theirs)
            worst = max(worst, (difference > 0).mean())
            if name in POINTWISE:  # tables and blends: integers, and sums that float32 holds
                # A blend's factor may be a bit off Pillow's in float32, as XLA orders its sums;
                # where it makes a whole number of a grey level, as 0.19 does of 100, the product
                # then falls to the other side of it, and is cut off one lower or higher.
                assert difference.max() <= 1
                assert (difference > 0).mean() < (0.02 if name in BLENDS else 1e-4)
            else:
                # Places and weights are float32 here: a value near a whole number may be cut off
                # to the other one. A place within float32's error of the image's edge may fall
                # on its other side, and then shows the border or the fill.
                assert (difference > 1).any(-1).mean() < 1e-4
                assert (difference > 0).mean() < 1e-3

    print(
        f"\n{name}: {worst:.1e} of the values differ from Pillow's at most, over levels and signs"
    )


@pytest.mark.parametrize("name", ["auto_contrast", "brightness"])
def test_tables_of_every_kind(name: str) -> None:
    """All values between a darkest and a lightest one, at levels that make whole numbers.

    Where an exact result is a whole number, a factor that is rounded the other way is cut off one
    lower: Pillow's of auto-contrast is a double, and ours of a blend float32.
    """
    rng = np.random.RandomState(0)
    images, levels = np.zeros((1000, 16, 16, 3), np.uint8), rng.randint(0, 101, 1000) / 10
    for image in images:
        low, high = np.sort(rng.choice(256, 2, replace=False))
        image[...] = np.linspace(low, high, 256).astype(np.uint8).reshape(16, 16, 1)
    operation = np.full(1000, randaugment.OPERATIONS.index(name))
    ours = apply_operations()(images, operation, levels.astype(np.float32), np.zeros(1000, bool))
    pairs = zip(images, levels, strict=True)
    theirs = np.stack([pillow(image, name, level, False) for image, level in pairs])
    difference = np.abs(np.asarray(ours).astype(int) - theirs)
    print(f"\n{name}, tables: {(difference > 0).mean():.1e} of the values differ from Pillow's")
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_an_operation_does_nothing_to_the_other_images() -> None:
    images = np.stack(photographs())
    operation = np.arange(len(images)) - 1  # the first has none
    level, negate = np.full(len(images), 9.0, np.float32), np.zeros(len(images), bool)
    together = np.asarray(apply_operations()(images, operation, level, negate))
    np.testing.assert_array_equal(together[0], images[0])
    for i in range(1, len(images)):
        alone = apply_operations()(images, np.full(len(images), i - 1), level, negate)
        np.testing.assert_array_equal(together[i], np.asarray(alone)[i])


def test_grey_images_have_every_operation() -> None:
    images = np.stack([image[..., :1] for image in photographs()])
    b = len(images)
    apply = functools.partial(randaugment.apply_operations, fill=(77,))
    apply = jax.jit(apply, compiler_options=OPTIMIZED)
    for operation in range(len(randaugment.OPERATIONS)):
        level, negate = np.full(b, 9.0, np.float32), np.zeros(b, bool)
        result = apply(images, np.full(b, operation), level, negate)
        assert result.shape == images.shape
        assert result.dtype == jnp.uint8


def test_rand_augment_draws_as_often_as_it_says() -> None:
    # On noise from 0 to 255 every operation shows, but for auto_contrast: nothing to stretch.
    noise = np.random.RandomState(0).randint(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    noise[0, 0, :2] = [[0], [255]]
    images = np.broadcast_to(noise, (4000, 16, 16, 3))
    draw = functools.partial(randaugment.rand_augment, num_ops=1, fill=FILL)
    args = {"magnitude": 9.0, "magnitude_std": 0.5}
    result = jax.jit(functools.partial(draw, prob=0.5, **args))(jax.random.key(0), images)
    untouched = (np.asarray(result) == images).all(axis=(1, 2, 3)).mean()
    assert abs(untouched - (0.5 + 0.5 / 15)) < 0.03
    result = jax.jit(functools.partial(draw, prob=1.0, **args))(jax.random.key(0), images)
    different = {image.tobytes() for image in np.asarray(result)}
    inverted = (np.asarray(result) == 255 - images).all(axis=(1, 2, 3)).mean()
    assert abs(inverted - 1 / 15) < 0.015
    assert len(different) > 1000  # levels are drawn anew for each image


def test_erasing_has_the_areas_and_aspects_of_its_paper() -> None:
    b, size = 4000, 32
    images = jnp.full((b, size, size, 1), 100.0)
    erased = np.asarray(
        jax.jit(lambda key: on_device.erase(key, images, RECIPE))(jax.random.key(1))
    )
    gone = erased[..., 0] != 100.0
    share = gone.any(axis=(1, 2))
    assert abs(share.mean() - 0.25) < 0.03
    heights = gone[share].any(axis=2).sum(axis=1)
    widths = gone[share].any(axis=1).sum(axis=1)
    areas = gone[share].sum(axis=(1, 2))
    np.testing.assert_array_equal(areas, heights * widths)  # whole rectangles
    assert abs((areas / size**2).mean() - (0.02 + 1 / 3) / 2) < 0.01
    assert areas.min() >= 0.015 * size**2
    assert areas.max() <= 0.36 * size**2
    log_aspect = np.log(heights / widths)
    assert abs(log_aspect.mean()) < 0.06
    # Uniform in the logarithm between 0.3 and 1 / 0.3.
    assert abs(log_aspect.std() - 2 * np.log(1 / 0.3) / np.sqrt(12)) < 0.06
    middle = gone[share].mean(axis=0)
    assert np.abs(middle - middle[::-1]).max() < 0.06  # anywhere, no corner preferred
    assert np.abs(middle - middle[:, ::-1]).max() < 0.06
    noise = erased[..., 0][gone]
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_mixed_as_the_pixels_are(mixup: float, cutmix: float) -> None:
    """Image i holds the value i everywhere, so a pixel tells whose it is."""
    b, size = 8, 16
    values = jnp.arange(b, dtype=jnp.float32)
    images = jnp.broadcast_to(values[:, None, None, None], (b, size, size, 3))
    targets = on_device.smooth_labels(jnp.arange(b), b, 0.1)
    recipe = dataclasses.replace(RECIPE, mixup_alpha=mixup, cutmix_alpha=cutmix)
    run = jax.jit(lambda key: on_device.mix(key, images, targets, recipe))
    kept, kinds = [], set()
    for seed in range(200):
        mixed, mixed_targets = (np.asarray(x) for x in run(jax.random.key(seed)))
        np.testing.assert_allclose(mixed_targets.sum(-1), 1.0, rtol=1e-5)
        one_hot = (mixed_targets - 0.1 / b) / 0.9
        # The mean pixel is the mean class number, each class weighted by its target.
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), one_hot @ np.arange(b), atol=1e-4)
        assert (one_hot[np.arange(b), np.arange(b) ^ 1] > -1e-6).all()
        np.testing.assert_allclose(one_hot.sum(-1), 1.0, atol=1e-5)
        kinds.add(
            "mixup" if np.ptp(mixed[0]) < 1e-6 and 1e-6 < mixed[0, 0, 0, 0] < 1 - 1e-6 else "cutmix"
        )
        kept.append(one_hot[0, 0])
    assert kinds == {kind for kind, on in (("mixup", mixup), ("cutmix", cutmix)) if on}
    if not cutmix:  # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 * (2 * 0.8 + 1))
        assert abs(np.mean(kept) - 0.5) < 0.07
        assert abs(np.var(kept) - 1 / (4 * 2.6)) < 0.03


def test_a_batch_is_mixed_as_often_as_it_says() -> None:
    images = jnp.arange(4.0).reshape(4, 1, 1, 1) * jnp.ones((1, 8, 8, 1))
    targets = jnp.eye(4)
    recipe = dataclasses.replace(RECIPE, mix_prob=0.3, cutmix_alpha=0.0)
    run = jax.jit(lambda key: on_device.mix(key, images, targets, recipe)[0])
    changed = [bool((run(jax.random.key(seed)) != images).any()) for seed in range(300)]
    assert abs(np.mean(changed) - 0.3) < 0.08


def test_a_step_augments_the_same_on_any_number_of_devices() -> None:
    """And moves no image from one device to another to do so."""
    rng = np.random.RandomState(0)
    batch = {
        "image": rng.randint(0, 256, (32, 16, 16, 3)).astype(np.uint8),
        "label": rng.randint(0, 10, 32).astype(np.int32),
    }
    results = []
    for devices in (1, 8):
        layout = devices_lib.make_layout(jax.devices()[:devices])
        augment = jax.jit(
            lambda key, batch: on_device.training_batch(
                key, batch, RECIPE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2), 10, 0.1
            ),
            in_shardings=(layout.replicated, layout.batch),
            out_shardings=layout.batch,
        )
        key = devices_lib.replicate(layout, jax.random.key(3))
        on_devices = devices_lib.shard_batch(layout, batch)
        program = augment.lower(key, on_devices).compile()
        results.append([np.asarray(x) for x in program(key, on_devices)])
        for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
            assert collective not in program.as_text()
    for one, eight in zip(*results, strict=True):
        np.testing.assert_array_equal(one, eight)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("augment.erasing_prob", 1.5, "augment.erasing_prob must be in [0, 1], got 1.5"),
        ("augment.randaugment_magnitude", 11.0, "must be in [0, 10]"),
        (
            "augment.erasing_area_max",
            0.01,
            "erasing_area_min 0.02 is greater than augment.erasing_area_max",
        ),
        ("data.repeats", 0, "data.repeats must be in [1, 2^20], got 0"),
    ],
)
def test_bad_fields_are_named(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match="augment|data") as error:
        load_config(str(ROOT / "configs/s2mlp_wide.py"), {field: value})
    assert message in str(error.value)


def test_mixing_needs_an_even_batch() -> None:
    with pytest.raises(ValueError, match="must be even, got 15"):
        tiny_config(train__batch_size=15, train__accumulation_steps=1, augment__mix_prob=1.0)
