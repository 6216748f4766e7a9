"""The training recipe against timm's pieces of it, which DeiT's recipe is made of.

DeiT's own code is timm 0.3.2's with its settings; where a later timm computes something else, both
are compared. `pytest -s` prints what was measured.
"""

import copy
import dataclasses
import functools
import math
import random
import typing

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from PIL import Image

from s2mlp_jax.config import load_config, to_options
from s2mlp_jax.data import on_device, randaugment
from s2mlp_jax.export.pytorch import _arguments
from s2mlp_jax.export.torch_tables import table
from s2mlp_jax.models import create_model, get_variant, init
from s2mlp_jax.models.layers import drop_path, drop_path_rates
from s2mlp_jax.models.mixers import SpatialShift
from s2mlp_jax.models.variants import VARIANTS
from s2mlp_jax.saved.arrays import flatten
from s2mlp_jax.train import optim
from s2mlp_jax.train.state import update_ema
from tests.helpers import ROOT
from tests.parity import peers, samples
from tests.test_augment import FILL, apply_operations, photographs

timm = peers.require("timm")

import torch  # noqa: E402
from timm.data import auto_augment, create_transform  # noqa: E402
from timm.data import mixup as their_mixup  # noqa: E402
from timm.data.mixup import Mixup, mixup_target  # noqa: E402
from timm.layers import DropPath  # noqa: E402
from timm.optim import param_groups_weight_decay  # noqa: E402
from timm.scheduler import CosineLRScheduler  # noqa: E402
from timm.utils import ModelEma  # noqa: E402

from benchmarks import torch_models  # noqa: E402
from s2mlp_jax.export.s2mlp_torch import S2MLP  # noqa: E402

OPTIONS = to_options(load_config(str(ROOT / "configs/deit.py")))
RECIPE = OPTIONS.augment


# The settings ------------------------------------------------------------------------------------


@functools.cache
def their_transform() -> list[typing.Any]:
    """The steps of training's transform, made with DeiT's arguments."""
    return create_transform(
        224,
        is_training=True,
        color_jitter=0.4,  # has no effect beside RandAugment
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    ).transforms


def step_of(kind: str) -> typing.Any:
    """Returns a step of training's transform."""
    (step,) = (step for step in their_transform() if type(step).__name__ == kind)
    return step


def test_settings() -> None:
    """What timm makes of DeiT's arguments, against our recipe's fields."""
    crop, flip = step_of("RandomResizedCropAndInterpolation"), step_of("RandomHorizontalFlip")
    crops = OPTIONS.data
    assert (crop.scale, crop.ratio) == ((crops.crop_area_min, 1.0), (3 / 4, 4 / 3))
    assert crop.interpolation.value == crops.interpolation
    assert flip.p == crops.flip

    rand_augment = step_of("RandAugment")
    assert rand_augment.num_layers == RECIPE.randaugment_ops
    assert rand_augment.choice_weights is None  # each as likely, and with replacement
    for operation in rand_augment.ops:
        assert operation.prob == RECIPE.randaugment_prob
        assert operation.magnitude == RECIPE.randaugment_magnitude
        assert operation.magnitude_std == RECIPE.randaugment_magnitude_std
        assert operation.magnitude_max is None
        assert operation.kwargs == {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}

    erasing = step_of("RandomErasing")
    assert (erasing.min_count, erasing.max_count, erasing.per_pixel) == (1, 1, True)
    assert erasing.probability == RECIPE.erasing_prob
    assert (erasing.min_area, erasing.max_area) == (
        RECIPE.erasing_area_min,
        RECIPE.erasing_area_max,
    )
    edge = math.log(RECIPE.erasing_aspect_min)
    np.testing.assert_allclose(erasing.log_aspect_ratio, (edge, -edge), rtol=1e-12)
    names = [type(step).__name__ for step in their_transform()]
    print(f"settings: those of {', '.join(names)}")


# RandAugment -------------------------------------------------------------------------------------

# timm's name -> ours.
OPERATIONS = {
    "AutoContrast": "auto_contrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Rotate": "rotate",
    "PosterizeIncreasing": "posterize",
    "SolarizeIncreasing": "solarize",
    "SolarizeAdd": "solarize_add",
    "ColorIncreasing": "color",
    "ContrastIncreasing": "contrast",
    "BrightnessIncreasing": "brightness",
    "SharpnessIncreasing": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}
LEVELS = (0.5, 9.0, 9.9)
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
BLENDS = ("color", "contrast", "brightness", "sharpness")


def test_the_operations_are_all_of_timms() -> None:
    assert {operation.name for operation in step_of("RandAugment").ops} == set(OPERATIONS)
    assert set(OPERATIONS.values()) == set(randaugment.OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's function of an operation with timm's argument for the level, to both sides."""
    (operation,) = (op for op in step_of("RandAugment").ops if op.name == name)
    ours_by, images = OPERATIONS[name], np.stack(photographs()[:4])
    count = len(images)
    differing, largest, total, far = 0, 0, 0, 0
    for level in LEVELS:
        for negate in (False, True):
            # What draws the side, as 0 or 1 in equal parts: it is greater than a half or not.
            monkeypatch.setattr(auto_augment.random, "random", lambda n=negate: float(n))
            to_argument = operation.level_fn or (lambda level, hparams: ())
            arguments = to_argument(level, operation.hparams)
            theirs = [
                np.asarray(operation.aug_fn(Image.fromarray(x), *arguments, **operation.kwargs))
                for x in images
            ]
            ours = apply_operations()(
                images,
                np.full(count, randaugment.OPERATIONS.index(ours_by)),
                np.full(count, level, np.float32),
                np.full(count, negate),
            )
            gap = np.abs(np.asarray(ours).astype(int) - np.stack(theirs))
            largest, total = max(largest, gap.max()), total + gap.size
            differing, far = differing + (gap > 0).sum(), far + (gap > 1).sum()
    print(
        f"{name}: {differing / total:.1e} of {total:,} values differ, by {largest} at most, "
        f"{far / total:.1e} by more than a level"
    )
    # Why they differ at all is said where they are compared with Pillow, in test_augment.
    part = 5e-4 if ours_by in WARPS else 0.02 if ours_by in BLENDS else 1e-4
    assert differing < part * total
    assert far < (1e-4 * total if ours_by in WARPS else 1)


def test_posterize_to_no_bits() -> None:
    """At the highest level, which one draw in forty is cut to, nothing is kept.

    Pillow made that black as long as it did it; Pillow 13 refuses, and timm with it.
    """
    image, ones = photographs()[0], np.ones(1)
    (operation,) = (op for op in step_of("RandAugment").ops if op.name == "PosterizeIncreasing")
    assert operation.level_fn(10.0, operation.hparams) == (0,)
    index = ones.astype(int) * randaugment.OPERATIONS.index("posterize")
    level = np.float32(10) * ones.astype(np.float32)
    ours = apply_operations()(image[None], index, level, ones.astype(bool))
    assert not np.asarray(ours).any()
    try:
        theirs = np.asarray(operation.aug_fn(Image.fromarray(image), 0))
        print("posterize to 0 bits: black, as Pillow's")
        assert not theirs.any()
    except ValueError as error:
        print(f"posterize to 0 bits: black; Pillow {PIL.__version__}: {error}")


# Random erasing ----------------------------------------------------------------------------------

HEIGHT, WIDTH = 40, 56


def rectangles(gone: np.ndarray) -> np.ndarray:
    """(b, h, w) of which each that has any is one rectangle -> (n, 4): top, left, height, width."""
    gone = gone[gone.any(axis=(1, 2))]
    rows, columns = gone.any(axis=2), gone.any(axis=1)
    boxes = [rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)]
    np.testing.assert_array_equal(boxes[2] * boxes[3], gone.sum(axis=(1, 2)))
    return np.stack(boxes, axis=1)


UNTOUCHED = 100.0


def erased(probability: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns what ours and timm's make of images of one value, (count, h, w) each."""
    images = np.full((count, HEIGHT, WIDTH, 1), UNTOUCHED, np.float32)
    recipe = dataclasses.replace(RECIPE, erasing_prob=probability)
    erase = jax.jit(lambda key, images: on_device.erase(key, images, recipe))
    ours = np.asarray(erase(jax.random.key(0), images))[..., 0]
    erasing = copy.copy(step_of("RandomErasing"))
    erasing.probability = probability
    torch.manual_seed(0)
    random.seed(0)
    theirs = erasing(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))[:, 0].numpy()
    return ours, theirs


def test_random_erasing() -> None:
    """Which part of the images, where, how large, of what shape, and with what noise."""
    count, probability = 6000, RECIPE.erasing_prob
    parts = [(x != UNTOUCHED).any(axis=(1, 2)).mean() for x in erased(probability, count)]
    print(f"random erasing: {parts[0]:.4f} and {parts[1]:.4f} of {count} images")
    assert abs(parts[0] - parts[1]) < 3.3 * math.sqrt(2 * probability * (1 - probability) / count)

    both = erased(1.0, 4000)
    boxes = [rectangles(x != UNTOUCHED) for x in both]
    print(f"random erasing: of {len(both[0])} images {len(boxes[0])} and {len(boxes[1])} at 1.0")
    for name, measure in {
        "area": lambda box: box[:, 2] * box[:, 3] / (HEIGHT * WIDTH),
        "aspect": lambda box: np.log(box[:, 2] / box[:, 3]),
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "rows below": lambda box: HEIGHT - box[:, 0] - box[:, 2],
        "columns on the right": lambda box: WIDTH - box[:, 1] - box[:, 3],
    }.items():
        samples.assert_same(f"random erasing, {name}", *map(measure, boxes))
    noise = [x[x != UNTOUCHED][:100_000] for x in both]
    samples.assert_same("random erasing, noise", *noise)
    # Each pixel has noise of its own: neighbours have nothing in common.
    for x in noise:
        assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.01


# Mixup and cutmix --------------------------------------------------------------------------------

KINDS = {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0), "both": (0.8, 1.0)}


def our_kept(mixup: float, cutmix: float, size: int, count: int) -> np.ndarray:
    """Draws the part that an image keeps of its target, (count,)."""
    recipe = dataclasses.replace(RECIPE, mixup_alpha=mixup, cutmix_alpha=cutmix)
    images, targets = jnp.zeros((2, size, size, 1)), jnp.eye(2)
    # The images are not asked for, and XLA leaves them out.
    kept = jax.jit(jax.vmap(lambda key: on_device.mix(key, images, targets, recipe)[1][0, 0]))
    return np.asarray(kept(jax.random.split(jax.random.key(0), count)))


def their_kept(mixup: float, cutmix: float, size: int, count: int) -> np.ndarray:
    mixer = Mixup(
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        prob=RECIPE.mix_prob,
        switch_prob=RECIPE.mix_switch_prob,
        label_smoothing=0.0,
        num_classes=2,
    )
    np.random.seed(0)
    images, labels = torch.zeros(2, 1, size, size), torch.arange(2)
    return np.array([float(mixer(images, labels)[1][0, 0]) for _ in range(count)])


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_parts_are_of_one_distribution(kind: str) -> None:
    alphas = KINDS[kind]
    ours, theirs = our_kept(*alphas, 224, 3000), their_kept(*alphas, 224, 12000)
    samples.assert_same(f"part kept in {kind}", ours, theirs)


def our_boxes(kept: np.ndarray, centres: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns where an image shows its neighbour, (n, 4): top, bottom, left, right; 0 for nowhere.

    Args:
      kept: (n,), what is drawn for the part that is kept.
      centres: (n, 2), what is drawn for the box's middle, row and column.
      size: height and width, which must differ.
    """
    height, width = size
    recipe = dataclasses.replace(RECIPE, mixup_alpha=0.0)
    images = jnp.stack([jnp.zeros((height, width, 1)), jnp.ones((height, width, 1))])

    def mixed(kept: jax.Array, centre: jax.Array) -> jax.Array:
        with pytest.MonkeyPatch.context() as patch:
            # In place of the draws, while jax traces `mix`.
            patch.setattr(jax.random, "beta", lambda key, a, b: kept)
            patch.setattr(
                jax.random,
                "randint",
                lambda key, shape, low, high: centre[0 if high == height else 1],
            )
            return on_device.mix(jax.random.key(0), images, jnp.eye(2), recipe)[0][0, ..., 0]

    found = np.asarray(jax.jit(jax.vmap(mixed))(jnp.asarray(kept, jnp.float32), centres)) > 0
    rows, columns = found.any(2), found.any(1)
    np.testing.assert_array_equal(found, rows[:, :, None] & columns[:, None, :])
    edges = [(x.argmax(1), x.argmax(1) + x.sum(1)) for x in (rows, columns)]
    return np.stack([*edges[0], *edges[1]], axis=1)


def their_box(
    monkeypatch: pytest.MonkeyPatch, kept: float, centre: np.ndarray, size: tuple[int, int]
) -> list[int]:
    drawn = iter(centre)
    monkeypatch.setattr(their_mixup.np.random, "randint", lambda *a, **k: int(next(drawn)))
    top, bottom, left, right = their_mixup.rand_bbox((2, 1, *size), kept)
    return [top, bottom, left, right]


def older_box(kept: float, centre: np.ndarray, size: tuple[int, int]) -> list[int]:
    """timm 0.3.2's box: the half of a side, rounded down, to both sides of the middle."""
    box = []
    for middle, side in zip(centre, size, strict=True):
        half = int(side * math.sqrt(1 - kept)) // 2
        box += [min(max(int(middle) + step, 0), side) for step in (-half, half)]
    return box


def test_cutmix_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as timm 0.3.2's; timm now rounds the half to the larger side up."""
    size, count = (90, 130), 1500
    rng = np.random.RandomState(0)
    kept = rng.uniform(0, 1, count).astype(np.float32).astype(float)
    centres = rng.randint(0, size, (count, 2))
    ours = our_boxes(kept, centres, size)
    older = np.array([older_box(k, c, size) for k, c in zip(kept, centres, strict=True)])
    now = np.array([their_box(monkeypatch, k, c, size) for k, c in zip(kept, centres, strict=True)])

    def areas(boxes: np.ndarray) -> np.ndarray:
        return (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / math.prod(size)

    seen = areas(older) > 0  # a box of no pixels has no place
    np.testing.assert_array_equal(areas(ours) > 0, seen)
    np.testing.assert_array_equal(ours[seen], older[seen])
    # timm's now: the same first row and column, and one more at the end where a side is odd and
    # does not stick out.
    sides = (np.array(size) * np.sqrt(1 - kept)[:, None]).astype(int)
    expected = older + np.stack(
        [0 * sides[:, 0], sides[:, 0] % 2, 0 * sides[:, 1], sides[:, 1] % 2], 1
    )
    expected = np.minimum(expected, np.repeat(size, 2))
    np.testing.assert_array_equal(now, expected)
    gap = areas(now) - areas(ours)
    print(
        f"cutmix boxes: all {count} as timm 0.3.2's; timm {timm.__version__}'s are larger in "
        f"{(gap > 0).mean():.2f} of them, by {gap.mean():.4f} of the image on average and "
        f"{gap.max():.4f} at most, at {size[0]}x{size[1]}"
    )
    assert gap.min() >= 0
    assert gap.max() < 0.02


def test_mixed_targets_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm mixes an image with its mirror in the batch, ours with its neighbour: reordered, one."""
    b, classes, size = 8, 10, 12
    order = [0, 2, 4, 6, 7, 5, 3, 1]  # so that our neighbours are each other's mirror
    rng = np.random.RandomState(0)
    images = rng.standard_normal((b, size, size, 3)).astype(np.float32)
    labels = rng.randint(0, classes, b)
    smoothing = OPTIONS.train.label_smoothing
    recipe = dataclasses.replace(RECIPE, cutmix_alpha=0.0)
    gaps = []
    for kept in (0.0, 0.3, 0.5, 0.93, 1.0):
        with monkeypatch.context() as patch:
            patch.setattr(jax.random, "beta", lambda key, x, y, kept=kept: jnp.float32(kept))
            smooth = on_device.smooth_labels(jnp.asarray(labels), classes, smoothing)
            ours = on_device.mix(jax.random.key(0), jnp.asarray(images), smooth, recipe)
        mixer = Mixup(mixup_alpha=0.8, label_smoothing=smoothing, num_classes=classes)
        monkeypatch.setattr(mixer, "_params_per_batch", lambda kept=kept: (kept, False))
        their_images = torch.from_numpy(images[order].transpose(0, 3, 1, 2).copy())
        their_labels = torch.from_numpy(labels[order])
        mixed, targets = mixer(their_images, their_labels)
        same = mixup_target(their_labels, classes, kept, smoothing)
        np.testing.assert_array_equal(targets.numpy(), same.numpy())
        gaps += [
            np.abs(np.asarray(ours[0])[order] - mixed.numpy().transpose(0, 2, 3, 1)).max(),
            np.abs(np.asarray(ours[1])[order] - targets.numpy()).max(),
        ]
    print(f"mixup: images at most {max(gaps[::2]):.1e} and targets {max(gaps[1::2]):.1e} apart")
    assert max(gaps) < 5e-7


# The schedule ------------------------------------------------------------------------------------


def their_rates(epochs: int, late: bool) -> list[float]:
    """Returns the learning rate of each epoch. DeiT steps after an epoch, with its number: `late`.

    Then each epoch has the rate that the scheduler means for the one before it.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6
    )
    rates = []
    for epoch in range(epochs):
        if not late:
            scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch)
    return rates


def test_schedule() -> None:
    """DeiT's rate changes by epochs, ours by steps: how far apart they are.

    timm's cosine starts with the run, and its first epochs are the warm-up's instead; ours starts
    where the warm-up ends.
    """
    epochs, warmup, steps = 300, 5, 1281167 // 1024
    assert (OPTIONS.train.epochs, OPTIONS.optimizer.warmup_epochs) == (epochs, warmup)
    schedule = optim.make_schedule(OPTIONS, epochs * steps, steps)
    ours = np.asarray(jax.vmap(schedule)(jnp.arange(epochs * steps)), float).reshape(epochs, steps)
    peak = 1e-3
    for late, bounds in ((False, (0.001, 0.038, 0.004)), (True, (0.26, 0.087, 0.012))):
        theirs = np.array(their_rates(epochs, late))[:, None]
        gaps = np.abs(ours / theirs - 1).max(axis=1)
        found = gaps[warmup], gaps[warmup + 1 : -1].max(), gaps[-1]
        print(
            f"schedule against timm's{', stepped as DeiT does' if late else ''}: relative gap in "
            f"the first epoch after the warm-up {found[0]:.4f}, later at most {found[1]:.4f} "
            f"(epoch {warmup + 1 + gaps[warmup + 1 : -1].argmax()}), in the last one "
            f"{found[2]:.4f}; in the warm-up at most "
            f"{np.abs(ours - theirs)[:warmup].max() / peak:.3f} of the peak; sum of the rates "
            f"{ours.sum() / (theirs.sum() * steps):.4f} of timm's"
        )
        assert all(gap < bound for gap, bound in zip(found, bounds, strict=True))
    # A step at the beginning of an epoch has the rate that timm means for that epoch, in the
    # warm-up; and their ends are the same.
    exact = np.array(their_rates(epochs, late=False))
    np.testing.assert_allclose(ours[:warmup, 0], exact[:warmup], rtol=1e-6, atol=1e-9)


# Weight decay ------------------------------------------------------------------------------------

Shapes = dict[str, tuple[int, ...]]


def their_decayed(model: torch.nn.Module) -> set[str]:
    """Returns the names of what timm's groups decay."""
    skipped = getattr(model, "no_weight_decay", set)()
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=skipped)
    chosen = {id(x) for group in groups if group["weight_decay"] for x in group["params"]}
    return {name for name, x in model.named_parameters() if id(x) in chosen}


def our_decayed(name: str) -> dict[str, int]:
    """Returns what we decay, "params/block_00/mlp/fc_in/kernel" -> how many numbers it has."""
    model = create_model(name)
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), 224))["params"]
    mask = flatten({"params": optim.decay_mask(shapes)})
    sizes = flatten({"params": jax.tree.map(lambda x: math.prod(x.shape), shapes)})
    return {path: int(sizes[path]) for path, decayed in mask.items() if decayed}


def in_timm(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(torch_models.TIMM[name])


FAMILIES = ["mlp_mixer_s16", "resmlp_12", "deit_ti", "resnet_50"]


@pytest.mark.parametrize("name", FAMILIES)
def test_weight_decay_of_timms_models(name: str) -> None:
    model = in_timm(name)
    ours = our_decayed(name).keys()
    # Batch norms' running statistics are no parameters.
    names = {e.torch: e.ours for e in table(get_variant(name)) if e.ours.startswith("params/")}
    assert names.keys() == dict(model.named_parameters()).keys()
    theirs = {names[x] for x in their_decayed(model)}
    more = sorted({path.split("/", 2 if "block" in path else 1)[-1] for path in theirs - ours})
    print(f"weight decay, {name}: ours {len(ours)} arrays, timm's {len(theirs)}, also {more}")
    assert ours <= theirs
    # timm keeps ResMLP's affines as (1, 1, c), which its rule takes for matrices.
    expected = (
        {"final_norm/bias", "final_norm/scale"}
        | {f"{norm}/{x}" for norm in ("mixer_norm", "mlp_norm") for x in ("bias", "scale")}
        if name == "resmlp_12"
        else set()
    )
    assert set(more) == expected
    # The authors' have (c,): by the same rule, of the shapes without their sides of 1, none.
    skipped = getattr(model, "no_weight_decay", set)()
    by_shape = {
        names[key]
        for key, x in model.named_parameters()
        if len([side for side in x.shape if side > 1]) > 1 and key not in skipped
    }
    assert by_shape == ours


OTHERS = ["s2mlp_wide", "s2mlp_deep", "s2mlp_v2_small_7", "vip_small_7", "as_mlp_t"]


@pytest.mark.parametrize("name", OTHERS)
def test_weight_decay_of_the_others(name: str) -> None:
    """By timm's rule in PyTorch models as one writes them: as many arrays, of as many numbers."""
    variant = get_variant(name)
    shift = variant.mixer_as(SpatialShift) is not None
    with torch.device("meta"):
        model = S2MLP(**_arguments(variant, 1000, 3)) if shift else torch_models.Model(variant)
    theirs = their_decayed(model)
    sizes = sorted(x.numel() for key, x in model.named_parameters() if key in theirs)
    ours = our_decayed(name)
    print(f"weight decay, {name}: ours {len(ours)} arrays, by timm's rule {len(theirs)}")
    assert sizes == sorted(ours.values())


# The average of the weights ----------------------------------------------------------------------


def test_average_of_the_weights() -> None:
    """timm's starts with the first weights, ours with nothing, its bias corrected.

    So after t updates timm's is decay^t of the first weights and the rest of ours, for the running
    statistics of batch norms as well.
    """
    decay, steps = 0.9, 40
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    theirs = ModelEma(model, decay=decay)

    def numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
        state = module.state_dict().items()
        return {k: x.numpy().astype(np.float32) for k, x in state if x.is_floating_point()}

    first = {k: x.copy() for k, x in numbers(model).items()}
    ours: typing.Any = {k: jnp.zeros_like(x) for k, x in first.items()}
    rng = np.random.RandomState(0)
    gap = difference = 0.0
    for count in range(1, steps + 1):
        with torch.no_grad():
            for x in model.state_dict().values():
                if x.is_floating_point():
                    x.add_(torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32)))
        theirs.update(model)
        ours = update_ema(ours, numbers(model), decay, jnp.asarray(count))
        rest = decay**count
        for key, x in numbers(theirs.ema).items():
            expected = rest * first[key] + (1 - rest) * np.asarray(ours[key])
            gap = max(gap, float(np.abs(x - expected).max() / np.abs(x).max()))
            difference = float(np.abs(x - np.asarray(ours[key])).max() / np.abs(x).max())
    left = OPTIONS.train.ema_decay ** (300 * 1251)
    print(
        f"average: {gap:.1e} from what relates the two; apart by {difference:.3f} after {steps} "
        f"updates of {decay}; of DeiT's first weights {left:.1e} are left in timm's at the end"
    )
    assert gap < 2e-6
    assert left < 4e-7


# Initial layer scales, drop path -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["resmlp_12", "resmlp_24", "resmlp_36"])
def test_initial_layer_scales(name: str) -> None:
    """timm's are the authors' but for 12 blocks, where ours are."""
    block = timm.create_model(torch_models.TIMM[name], img_size=32).blocks[0]
    theirs = {float(x) for scale in (block.ls1, block.ls2) for x in scale.detach()}
    (value,) = theirs
    ours = get_variant(name).layer_scale
    print(f"initial layer scale, {name}: ours {ours:g}, timm's {value:.2g}")
    assert value == pytest.approx(1e-4 if name == "resmlp_12" else ours)


def their_drop_path(name: str, rate: float) -> list[float]:
    """Returns the rate of each block of timm's model."""
    with torch.device("meta"):
        model = timm.create_model(torch_models.TIMM[name], drop_path_rate=rate)
    if name == "resnet_50":
        stages = [model.layer1, model.layer2, model.layer3, model.layer4]
        found = [block.drop_path for stage in stages for block in stage]
    else:
        found = [getattr(block, "drop_path", None) or block.drop_path1 for block in model.blocks]
    return [x.drop_prob if isinstance(x, DropPath) else 0.0 for x in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_drop_path_rates(name: str) -> None:
    """The same but for MLP-Mixer, of which timm has one rate for all, and its authors a line."""
    variant, rate = VARIANTS[name], 0.1
    ours = drop_path_rates(rate, sum(variant.depths), variant.drop_path_rule)
    theirs = their_drop_path(name, rate)
    print(
        f"drop path, {name}: ours {ours[0]:.3f} to {ours[-1]:.3f}, mean {np.mean(ours):.3f}; "
        f"timm's {theirs[0]:.3f} to {theirs[-1]:.3f}, mean {np.mean(theirs):.3f}"
    )
    if name.startswith("mlp_mixer"):
        assert variant.drop_path_rule == "linear"
        ours = drop_path_rates(rate, variant.depth, "constant")
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_drop_path() -> None:
    """A branch is dropped for an image as a whole, and scaled up by the same factor."""
    rate, count = 0.3, 8000
    x = np.ones((count, 2, 3, 4), np.float32)
    layer = drop_path(rate)
    ours = np.asarray(layer.apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)}))
    torch.manual_seed(0)
    theirs = DropPath(rate).train()(torch.from_numpy(x)).numpy()
    for found in (ours, theirs):
        first = found[:, 0, 0, 0]
        np.testing.assert_array_equal(found, np.broadcast_to(first[:, None, None, None], x.shape))
    values = [np.unique(found) for found in (ours, theirs)]
    np.testing.assert_allclose(*values, rtol=1e-6)
    kept = [(found[:, 0, 0, 0] > 0).mean() for found in (ours, theirs)]
    print(f"drop path of {rate}: kept {kept[0]:.4f} and {kept[1]:.4f}, times {values[0][-1]:.4f}")
    assert abs(kept[0] - kept[1]) < 3.3 * math.sqrt(2 * rate * (1 - rate) / count)
