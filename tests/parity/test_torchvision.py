"""The host's crops against torchvision's own code, and against timm's where DeiT takes that.

`pytest -s` prints what was measured.
"""

import random

import numpy as np
import pytest
from PIL import Image

from s2mlp_jax.config import load_config, to_options
from s2mlp_jax.data.views import Crops, _random_box, eval_geometry, eval_view
from tests.helpers import ROOT
from tests.parity import peers, samples

peers.require("torchvision")

import torch  # noqa: E402
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize  # noqa: E402
from torchvision.transforms import RandomResizedCrop as TheirCrop  # noqa: E402
from torchvision.transforms import functional as their_functions  # noqa: E402

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "imagenet_sample"
CROP_RATIO = 0.875  # DeiT's
# Pixels -> the short side before the crop: rounded to the nearest, 384 would have 439.
SHORT_SIDES = {224: 256, 160: 182, 288: 329, 384: 438}
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def crops(image_size: int) -> Crops:
    """The recipe's, for another size."""
    config = load_config(str(ROOT / "configs/deit.py"), {"data.image_size": image_size})
    return to_options(config).data


def lazy(height: int, width: int) -> torch.Tensor:
    """An image of that size in the memory of three numbers."""
    return torch.zeros(3, 1, 1).expand(3, height, width)


def their_offset(monkeypatch: pytest.MonkeyPatch, side: int, image_size: int) -> int:
    """Returns where `CenterCrop` cuts a square image; both axes have the same arithmetic."""
    seen: list[tuple[int, int]] = []
    with monkeypatch.context() as patch:
        # Only the place is wanted, not the pixels.
        patch.setattr(
            their_functions, "crop", lambda img, top, left, h, w: seen.append((top, left))
        )
        CenterCrop(image_size)(lazy(side, side))
    ((top, left),) = seen
    assert top == left
    return top


@pytest.mark.parametrize("image_size", SHORT_SIDES)
def test_evaluation_geometry(monkeypatch: pytest.MonkeyPatch, image_size: int) -> None:
    """`Resize` and `CenterCrop` of every seventh size from 200x200 to 999x999.

    `_compute_resized_output_size` is what `Resize` calls, and `CenterCrop` cuts an axis by its
    length alone, so that each length is asked for once.
    """
    offsets: dict[int, int] = {}
    count = 0
    for height in range(200, 1000):
        for width in range(200 + height % 7, 1000, 7):  # every width, beside other heights
            new_height, new_width = their_functions._compute_resized_output_size(
                (height, width), [SHORT_SIDES[image_size]]
            )
            for side in (new_height, new_width):
                if side not in offsets:
                    offsets[side] = their_offset(monkeypatch, side, image_size)
            ours = eval_geometry(height, width, image_size, CROP_RATIO)
            theirs = (new_height, new_width, offsets[new_height], offsets[new_width])
            assert ours == theirs, f"{height}x{width} at {image_size}"
            count += 1
    print(f"evaluation geometry at {image_size}: {count:,} sizes, all equal to torchvision's")


def photographs() -> list[Image.Image]:
    paths = sorted(PHOTOGRAPHS.glob("*.JPEG"))
    if not paths:
        pytest.skip("needs ../shared/data/imagenet_sample")
    return [Image.open(path).convert("RGB") for path in paths]


def timm_transform(image_size: int) -> Compose:
    """What `timm.data.create_transform` makes for evaluation, but for its normalisation."""
    peers.require("timm")
    from timm.data import create_transform

    return create_transform(
        (3, image_size, image_size),
        is_training=False,
        interpolation="bicubic",
        crop_pct=CROP_RATIO,
        normalize=False,
    )


def their_view(image_size: int) -> Compose:
    """As torchvision's users write it, on Pillow's images."""
    resize = Resize(SHORT_SIDES[image_size], interpolation=InterpolationMode.BICUBIC)
    return Compose([resize, CenterCrop(image_size)])


def differing(ours: list[np.ndarray], theirs: list[np.ndarray]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("image_size", SHORT_SIDES)
def test_evaluation_pixels(image_size: int) -> None:
    pictures = photographs()
    ours = [eval_view(np.asarray(picture), crops(image_size)) for picture in pictures]
    transform = their_view(image_size)
    theirs = [np.asarray(transform(picture)) for picture in pictures]
    count = differing(ours, theirs)
    print(f"evaluation at {image_size}: {count} of {sum(x.size for x in ours):,} values differ")
    assert count == 0


@pytest.mark.parametrize("image_size", SHORT_SIDES)
def test_evaluation_pixels_of_timm(image_size: int) -> None:
    transform, pictures = timm_transform(image_size), photographs()
    # timm's last part makes a tensor of channels, rows, columns.
    theirs = [transform(picture).permute(1, 2, 0).numpy() for picture in pictures]
    ours = [eval_view(np.asarray(picture), crops(image_size)) for picture in pictures]
    count = differing(ours, theirs)
    print(f"timm's evaluation at {image_size}: {count} of {sum(x.size for x in ours):,} differ")
    assert count == 0


def our_boxes(height: int, width: int, count: int) -> np.ndarray:
    """Draws random resized crops, (count, 4): top, left, height, width."""
    rng = random.Random(0)
    boxes = np.array([_random_box(height, width, AREA[0], rng) for _ in range(count)])
    left, top, right, bottom = boxes.T
    return np.stack([top, left, bottom - top, right - left], axis=1)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (90, 400)])
def test_random_crops_are_of_one_distribution(height: int, width: int) -> None:
    """Of the last image many a crop does not fit, and some are the fallback."""
    torch.manual_seed(0)
    image, count = lazy(height, width), 10000
    theirs = np.array([TheirCrop.get_params(image, AREA, RATIO) for _ in range(count)])
    ours = our_boxes(height, width, count)
    size = f"{height}x{width}"
    for name, measure in {
        "area": lambda box: box[:, 2] * box[:, 3] / (height * width),
        "aspect": lambda box: np.log(box[:, 3] / box[:, 2]),
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "rows below": lambda box: height - box[:, 0] - box[:, 2],
        "columns on the right": lambda box: width - box[:, 1] - box[:, 3],
    }.items():
        samples.assert_same(f"random crops of {size}, {name}", measure(ours), measure(theirs))


class TooLarge(random.Random):
    """Draws the lower end, which the tests make an area that no image has."""

    def uniform(self, a: float, b: float) -> float:
        return a


def test_fallback_boxes() -> None:
    """What is taken where nothing fits: part of a long image, all of another."""
    sides = [*range(1, 12), *range(13, 64, 5), 99, 100, 101, 224, 375, 500, 777, 1000]
    count = 0
    for height in sides:
        for width in sides:
            top, left, h, w = TheirCrop.get_params(lazy(height, width), (2.0, 2.0), RATIO)
            ours = _random_box(height, width, 2.0, TooLarge())
            assert ours == (left, top, left + w, top + h), f"{height}x{width}"
            count += 1
    print(f"fallback boxes: {count} sizes, all equal to torchvision's")


def test_random_crops_are_as_large_as_those_of_timm() -> None:
    """timm, whose crop DeiT takes, draws from Python's generator as well: from the same numbers.

    Until the first crop that fits both draw the same. Then timm places it by row and column, and
    ours by column and row.
    """
    peers.require("timm")
    from timm.data.transforms import RandomResizedCropAndInterpolation

    get_params = RandomResizedCropAndInterpolation.get_params
    count = 0
    for height, width in ((375, 500), (500, 333), (90, 400), (64, 64)):
        image = Image.new("L", (width, height))
        for seed in range(400):
            random.seed(seed)
            _, _, h, w = get_params(image, AREA, RATIO)
            left, top, right, bottom = _random_box(height, width, AREA[0], random.Random(seed))
            assert (bottom - top, right - left) == (h, w), f"{height}x{width}, seed {seed}"
            count += 1
    print(f"sizes of random crops: {count} draws, all equal to timm's")
