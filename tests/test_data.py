"""Data: the embedded set, the order of the stream, augmentation, padding, and what goes wrong."""

import collections
import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import random

import jax
import numpy as np
import pytest
from PIL import Image

from s2mlp_jax.data import digits as digits_lib
from s2mlp_jax.data import on_device, sources
from s2mlp_jax.data.decoding import decode
from s2mlp_jax.data.order import record_order
from s2mlp_jax.data.pipeline import batch_places, eval_batches, train_batches
from s2mlp_jax.data.views import Crops, eval_geometry, eval_view, train_views
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.create import create_experiment
from tests.data_sets import CIFAR_TEST, IMAGENET_TRAIN
from tests.helpers import tiny_config

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def crops(**changes) -> Crops:  # noqa: ANN003
    defaults = {
        "image_size": 8,
        "train_crop": "pad",
        "crop_area_min": 0.08,
        "crop_padding": 1,
        "flip": 0.5,
        "eval_crop_ratio": 1.0,
        "interpolation": "bicubic",
        "decoder": "turbo",
    }
    return Crops(**{**defaults, **changes})


def train_view(record: dict | np.ndarray, how: Crops, rng: random.Random) -> np.ndarray:
    record = record if isinstance(record, dict) else {"image": record}
    image = record["image"]
    channels = image.shape[-1] if isinstance(image, np.ndarray) else 3
    out = np.zeros((how.image_size, how.image_size, channels), np.uint8)
    train_views(record, channels, "", how, [rng], [out])
    return out


def test_digits_are_the_1797_and_the_split_is_fixed_and_stratified() -> None:
    from sklearn.datasets import load_digits

    train = sources.open_split("digits", "train")
    test = sources.open_split("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert (train.num_classes, train.channels) == (10, 1)
    images, labels, digest = [], [], {}
    for split in (train, test):
        records = [split.source[i] for i in range(len(split))]
        pixels = [decode(r, 1, "digits") for r in records]
        images += [p[..., 0] for p in pixels]
        labels += [r["label"] for r in records]
        everything = sorted(
            p.tobytes() + bytes([r["label"]]) for p, r in zip(pixels, records, strict=True)
        )
        digest[split.name] = hashlib.sha256(b"".join(everything)).hexdigest()[:16]
    # All of scikit-learn's images are there, each once, with its label.
    original = load_digits()
    levels = [np.rint(image * (16 / 255)).tobytes() for image in images]  # 0 to 16, as floats
    ours = sorted(zip(levels, labels, strict=True))
    theirs = [image.tobytes() for image in original.images]
    assert ours == sorted(zip(theirs, original.target.tolist(), strict=True))
    counts = np.bincount(labels[1437:], minlength=10)
    assert np.abs(counts - np.bincount(original.target) * 360 / 1797).max() < 1.5
    assert digest == {
        "digits/1.0.0 train": "0c4211bdb781d6ad",
        "digits/1.0.0 test": "dcf007093dbf8a8a",
    }


def test_digits_are_scikit_learn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file, or where that is not there by its function."""
    from sklearn.datasets import load_digits as sklearn_digits

    expected = sklearn_digits()
    for file in (digits_lib._FILE, "nowhere.csv"):
        monkeypatch.setattr(digits_lib, "_FILE", file)
        images, labels = digits_lib.load_digits()
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images[..., 0], np.rint(expected.images * 255 / 16))
        np.testing.assert_array_equal(labels, expected.target)


@pytest.mark.parametrize(
    ("split", "count", "digest"),
    [
        ("train", 1437, "1ff7ef083942ff00"),
        ("test", 360, "37e3b9a1ece8cd9a"),
        ("train[:10%]", 144, "0b0fc80529937c01"),
        ("train[50:100]", 50, "3b444da0485a04e3"),
        ("test[-10%:]", 36, "aa2841bb1cfc7012"),
        ("test+train[:5]", 365, "32c51037a0a6a245"),
        ("train[:50%]+test[7:9]", 720, "f8c8107cdd571d13"),
        ("all", 1797, "dc7a229c7a1df5bd"),
    ],
)
def test_digits_are_as_tfds_prepared_them(split: str, count: int, digest: str) -> None:
    """The digests are of the records that earlier versions prepared with TFDS, in their order."""
    found = sources.open_split("digits", split)
    assert (found.name, len(found)) == (f"digits/1.0.0 {split}", count)
    assert found.class_names == tuple("0123456789")
    everything = hashlib.sha256()
    for record in map(found.source.__getitem__, range(len(found))):
        everything.update(decode(record, 1, "digits").tobytes() + bytes([record["label"]]))
        everything.update(f"{record['index']},{record['key']};".encode())
    assert everything.hexdigest()[:16] == digest


@pytest.fixture(scope="module")
def digits() -> sources.Split:
    return sources.open_split("digits", "train", cache=True)


def take(split: sources.Split, steps: int, **kwargs) -> list:  # noqa: ANN003
    arguments = {
        "seed": 3,
        "batch_size": 12,
        "positions": np.arange(12),
        "num_threads": 0,
        **kwargs,
    }
    batches = train_batches(split, crops(), **arguments)
    return [next(batches) for _ in range(steps)]


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_stream_depends_on_seed_and_position_alone(digits: sources.Split) -> None:
    reference = take(digits, 5)
    assert reference[0]["image"].shape == (12, 8, 8, 1)
    assert reference[0]["image"].dtype == np.uint8
    for batch, same in zip(reference, take(digits, 5, num_threads=4), strict=True):
        assert_equal(batch, same)
    assert_equal(reference[3], take(digits, 1, start_step=3)[0])
    other = take(digits, 1, seed=4)[0]
    assert (other["label"] != reference[0]["label"]).any()


def test_processes_share_the_same_global_batches(digits: sources.Split) -> None:
    whole = take(digits, 3)
    for positions in (np.arange(6), np.arange(6, 12), np.array([1, 4, 9])):
        for batch, part in zip(whole, take(digits, 3, positions=positions), strict=True):
            assert_equal({k: v[positions] for k, v in batch.items()}, part)


def test_an_epoch_has_every_image_once_and_the_next_another_order() -> None:
    class Numbers:
        def __len__(self) -> int:
            return 30

        def __getitem__(self, index: int) -> dict:
            image = np.full((8, 8, 1), index, np.uint8)
            return {"image": image, "label": int(index), "index": int(index)}

    split = sources.Split("numbers", Numbers(), 30, 1, (), "")
    epochs = np.concatenate(  # of each seed 180 images, 6 epochs
        [batch["label"] for seed in (3, 4) for batch in take(split, 15, seed=seed)]
    ).reshape(12, 30)
    assert (np.sort(epochs) == np.arange(30)).all()
    assert len({epoch.tobytes() for epoch in epochs}) == 12  # nor is one seed's order another's


@pytest.mark.parametrize("batch_size", [7, 21, 40])
def test_evaluation_sees_every_image_once(batch_size: int) -> None:
    split = sources.open_split("cifar10", "test")
    seen = []
    for batch in eval_batches(split, crops(image_size=32), batch_size, np.arange(batch_size), 2):
        assert batch["image"].shape == (batch_size, 32, 32, 3)
        seen += [i.tobytes() for i, m in zip(batch["image"], batch["mask"], strict=True) if m]
    expected = [decode(split.source[i], 3, "").tobytes() for i in range(CIFAR_TEST)]
    assert seen == expected


def test_images_of_any_kind_become_the_same_shape() -> None:
    split = sources.open_split("imagenet2012", "train")  # some grey, some not square
    records = [split.source[i] for i in range(IMAGENET_TRAIN)]
    rng = random.Random(0)
    how = crops(image_size=64, train_crop="random_resized", eval_crop_ratio=0.875)
    modes = set()
    for record in records:
        modes.add(Image.open(io.BytesIO(record["image"])).mode)
        image = decode(record, 3, split.name)
        assert train_view(image, how, rng).shape == (64, 64, 3)
        assert eval_view(image, how).shape == (64, 64, 3)
    assert modes == {"L", "RGB"}
    cmyk = io.BytesIO()
    Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(cmyk, "JPEG")
    image = decode({"image": cmyk.getvalue(), "index": 0}, 3, "cmyk")
    assert image.shape == (10, 20, 3)
    assert image[5, 5, 0] > 200 > 100 > image[5, 5, 1]  # red


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/imagenet_sample")
def test_real_imagenet_files() -> None:
    """Views of them, and how far the two decoders are apart."""
    how = crops(image_size=224, train_crop="random_resized", eval_crop_ratio=0.875)
    off = []
    for path in sorted((SHARED / "imagenet_sample").iterdir()):
        record = {"image": path.read_bytes(), "index": 0}
        image = decode(record, 3, path.name)
        assert eval_view(image, how).shape == (224, 224, 3)
        turbo, pillow = (
            train_view(record, dataclasses.replace(how, decoder=name), random.Random(1)).astype(int)
            for name in ("turbo", "pillow")
        )
        off.append(np.abs(turbo - pillow))
    values = np.stack(off)
    print(
        f"\n{len(off)} random crops, turbo against pillow: {(values > 0).mean():.1%} of the "
        f"values differ, {(values > 1).mean():.2%} by more than a level; {values.max()} at most"
    )
    assert values.mean() < 0.2
    assert (values > 1).mean() < 0.002


def test_evaluation_crops_the_centre() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 255  # the central square of the short side's half
    view = eval_view(image, crops(image_size=20, eval_crop_ratio=0.5))
    assert (view == 255).all()
    whole = eval_view(image, crops(image_size=40, eval_crop_ratio=1.0))
    np.testing.assert_array_equal(whole, image[:, 10:50])


# (height, width), image_size, crop_ratio -> height and width resized to, top, left: worked out with
# torchvision 0.28's Resize and CenterCrop on int(image_size / crop_ratio).
GEOMETRY = [
    ((256, 259), 224, 0.875, (256, 259, 16, 18)),  # 17.5 is rounded to the even number
    ((257, 256), 224, 0.875, (257, 256, 16, 16)),  # and so is 16.5
    ((206, 309), 224, 0.875, (256, 384, 16, 80)),
    ((500, 375), 384, 0.875, (584, 438, 100, 27)),  # 438.86 is cut
    ((375, 500), 160, 0.875, (182, 242, 11, 41)),
    ((768, 1024), 288, 0.875, (329, 438, 20, 75)),  # 20.5
    ((8, 8), 8, 1.0, (8, 8, 0, 0)),
    ((3, 1000), 8, 1.0, (8, 2666, 0, 1329)),
]


@pytest.mark.parametrize(("image", "size", "ratio", "expected"), GEOMETRY)
def test_evaluation_geometry(
    image: tuple[int, int], size: int, ratio: float, expected: tuple[int, ...]
) -> None:
    assert eval_geometry(*image, size, ratio) == expected
    turned = eval_geometry(*image[::-1], size, ratio)
    assert turned == (*expected[1::-1], *expected[:1:-1])


def test_every_reader_of_an_image_sees_the_same_pixels(tmp_path: pathlib.Path) -> None:
    """Evaluation, `load`'s preprocessing, and training's two decoders where nothing is cropped."""
    from sklearn.datasets import load_sample_image

    file = tmp_path / "x.jpg"
    Image.fromarray(load_sample_image("china.jpg")[:206, :309]).save(file, quality=95)
    record = {"image": file.read_bytes(), "index": 0}
    how = Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)
    evaluated = eval_view(decode(record, 3, ""), how.crops)
    np.testing.assert_array_equal(how.pixels(file), evaluated)
    resized = Image.open(file).resize((384, 256), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resized)[16:240, 80:304], evaluated)
    views = [
        train_view(record, crops(image_size=224, train_crop="resize", flip=0.0, decoder=name), None)
        for name in ("pillow", "turbo")
    ]
    expected = np.asarray(Image.open(file).resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(views[0], expected)
    off = np.abs(views[1].astype(int) - expected)
    assert off.mean() < 0.3  # turbo rounds otherwise: docs/fidelity.md
    assert (off > 1).mean() < 0.01


@pytest.mark.parametrize("decoder", ["pillow", "turbo"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_images(degrees: int, decoder: str, tmp_path: pathlib.Path) -> None:
    """Turned before all else: as if the files had been turned."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    files = {}
    for name, image in (("upright", pixels), ("turned", np.rot90(pixels, degrees // 90))):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files[name] = {"image": file.getvalue(), "index": 0}
    jpeg_file = io.BytesIO()
    Image.fromarray(pixels).save(jpeg_file, "JPEG")
    for kind in ("random_resized", "pad", "resize"):
        plain = crops(image_size=16, train_crop=kind, crop_padding=2, decoder=decoder)
        how = dataclasses.replace(plain, rotate=degrees)
        for seed in range(5):
            expected = train_view(files["turned"], plain, random.Random(seed))
            got = train_view(files["upright"], how, random.Random(seed))
            np.testing.assert_array_equal(got, expected)
            record = {"image": jpeg_file.getvalue(), "index": 0}
            turned = {"image": np.rot90(decode(record, 3, ""), degrees // 90), "index": 0}
            np.testing.assert_array_equal(
                train_view(record, how, random.Random(seed)),
                train_view(turned, plain, random.Random(seed)),
            )
        np.testing.assert_array_equal(
            eval_view(decode(files["upright"], 3, ""), how),
            eval_view(decode(files["turned"], 3, ""), plain),
        )
    how = Preprocessing(16, 0.8, "bicubic", (0.5,) * 3, (0.5,) * 3, rotate=degrees)
    expected = eval_view(np.rot90(pixels, degrees // 90), dataclasses.replace(how, rotate=0).crops)
    np.testing.assert_array_equal(how.pixels(pixels), expected)
    with pytest.raises(ValueError, match="data.rotate 45 is unknown. Allowed are 0, 90, 180, 270"):
        crops(rotate=45)


def test_padded_crop_and_flip() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) + 1
    rng = random.Random(0)
    views = {train_view(image, crops(flip=0.0), rng).tobytes() for _ in range(200)}
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    expected = {padded[i : i + 8, j : j + 8].tobytes() for i in range(3) for j in range(3)}
    assert views == expected
    flips = [
        train_view(image, crops(flip=0.25, crop_padding=0), rng)[0, 0, 0] == 8 for _ in range(2000)
    ]
    assert abs(np.mean(flips) - 0.25) < 0.04


def test_random_resized_crop_statistics() -> None:
    """Areas are uniform in [0.08, 1] and aspect ratios log-uniform, where the box fits."""
    from s2mlp_jax.data.views import _random_box

    rng = random.Random(0)
    boxes = np.array([_random_box(400, 400, 0.08, rng) for _ in range(6000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= 400).all()
    area, ratio = width * height / 160_000, width / height
    assert 0.079 < area.min() < 0.1
    assert 0.74 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.35
    small = area[area < 0.6]  # a box of up to three quarters of a square always fits
    assert abs(np.mean(small) - 0.34) < 0.01
    assert abs(np.median(np.log(ratio))) < 0.02


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_broken_image_is_named(damage: str) -> None:
    split = sources.open_split("imagenet2012", "train")
    whole = split.source[5]["image"]
    broken = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage]

    class Broken:
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict:
            return {"image": broken if index == 5 else whole, "label": 0, "index": int(index)}

    damaged = sources.Split("mine/1.0.0 train", Broken(), 10, 3, (), "")
    with pytest.raises(ValueError, match=r"Broken image: mine/1.0.0 train, record 5, \d+ bytes"):
        take(damaged, 4, num_threads=2)


def test_missing_data_sets_say_what_to_do(tmp_path: pathlib.Path) -> None:
    here = str(tmp_path)
    with pytest.raises(ValueError, match=f"'mnist' is not prepared in {here}.*data.download=True"):
        sources.open_split("mnist", "train", here)
    with pytest.raises(
        ValueError, match=f"in {here}.*by hand.*data.prepare imagenet2012 .*--manual_dir"
    ):
        sources.open_split("imagenet2012", "train", here)
    with pytest.raises(ValueError, match="Unknown data set 'cifar11'.*Did you mean .*'cifar10'"):
        sources.open_split("cifar11", "train", here)
    with pytest.raises(ValueError, match="'digits' has no split 'val'. It has t"):
        sources.open_split("digits", "val")


def test_preparing_without_tensorflow_says_so(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(ValueError, match="pip install -r requirements-tensorflow.txt -c con"):
        sources.prepare("cifar10", str(tmp_path), download=True)
    assert not list(tmp_path.iterdir())


def test_data_dir_from_the_environment() -> None:
    assert str(sources.resolve_data_dir("")) == os.environ["TFDS_DATA_DIR"]
    assert str(sources.resolve_data_dir("~/x")) == os.path.expanduser("~/x")
    assert str(sources.resolve_data_dir("gs://bucket/x")) == "gs://bucket/x"


def test_repeated_augmentation_gives_three_views_in_a_batch() -> None:
    split = sources.open_split("digits", "train")
    batch_size, size = 32, len(split)

    def indices(repeats: int, steps: int) -> list[list[int]]:
        """The records of each batch, told by the label's place being the record's number."""
        numbered = dataclasses.replace(split, source=_Numbered(split.source))
        batches = train_batches(
            numbered, crops(), 0, batch_size, np.arange(batch_size), repeats, num_threads=0
        )
        return [list(next(batches)["label"]) for _ in range(steps)]

    distinct = -(-batch_size // 3)
    batches = indices(3, steps=2 * size // distinct)
    for number, batch in enumerate(batches):
        if number == size // distinct:  # begins the second round, and may have an image of both
            continue
        views = collections.Counter(batch)
        assert len(views) == distinct == 11
        assert sorted(views.values()) == [2] + [3] * 10  # 32 is not a multiple of 3
        assert all(a != b for a, b in itertools.pairwise(batch))  # mixed in pairs
    # Every image comes before any comes again: three epochs' steps make one round.
    first = [number for batch in batches for number in dict.fromkeys(batch)][:size]
    assert sorted(first) == list(range(size))
    # Without it a batch has as many images as places; an epoch's length is not touched by it.
    assert len(set(indices(1, steps=1)[0])) == batch_size
    one, three = (create_experiment(tiny_config(data__repeats=repeats)) for repeats in (1, 3))
    assert one.steps_per_epoch == three.steps_per_epoch


def test_noise_is_a_data_set_like_any_other() -> None:
    """Of any size and colour; a training makes one batch of it, whatever the step."""
    split = sources.open_split("synthetic", "train")
    assert (len(split), split.num_classes, split.channels) == (1_281_167, 1000, 3)
    assert len(sources.open_split("synthetic", "train[:10%]+test")) == 128_117 + 1024
    with pytest.raises(ValueError, match="no split 'dev'. It has train, validation, val, test"):
        sources.open_split("synthetic", "dev")
    sources.prepare("synthetic", "", download=True)  # there is nothing to do
    grey = sources.open_split("synthetic", "train", cache=True, channels=1)
    batches = train_batches(grey, crops(), 0, 8, np.arange(8), num_threads=2)
    first, second = itertools.islice(batches, 2)
    assert first["image"].shape == (8, 8, 8, 1)
    assert first["image"].std() > 5
    assert second is first
    later = next(train_batches(grey, crops(), 0, 8, np.arange(8), start_step=5, num_threads=0))
    np.testing.assert_array_equal(later["image"], first["image"])
    seen = list(eval_batches(sources.open_split("synthetic", "val[:5]"), crops(), 4, np.arange(4)))
    assert [int(batch["mask"].sum()) for batch in seen] == [4, 1]


def test_views_of_an_image_differ() -> None:
    split = sources.open_split("digits", "train")
    batches = train_batches(split, crops(), 0, 33, np.arange(33), repeats=3, num_threads=0)
    order = np.argsort(batch_places(33, 3), kind="stable")  # the three views of each image in a row
    views = np.moveaxis(next(batches)["image"][order].reshape(11, 3, -1), 1, 0)
    differ = (views[0] != views[1]).any(-1) | (views[1] != views[2]).any(-1)
    assert differ.mean() > 0.8  # nine places of the crop, so two in a ninth of the cases agree


def mixed_pairs(batch_size: int, repeats: int, parts: int = 1) -> list[tuple[int, int]]:
    """Returns the images that are mixed with each other, of a batch in so many accumulated parts.

    Part i takes positions i, i + parts, ...; in each part neighbours are mixed.
    """
    places = batch_places(batch_size, repeats)
    pairs = []
    for part in range(parts):
        first, second = places[part::parts].reshape(-1, 2).T
        pairs += list(zip(first.tolist(), second.tolist(), strict=True))
    return pairs


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize(
    ("batch_size", "repeats"), [(1024, 3), (1024, 2), (128, 2), (1000, 3), (256, 4), (512, 4)]
)
def test_each_view_of_an_image_is_mixed_with_another_one(
    batch_size: int, repeats: int, parts: int
) -> None:
    """DeiT has 321 to 342 distinct pairs of 512 at batch 1024; in one order there are 171."""
    distinct = -(-batch_size // repeats)
    places = batch_places(batch_size, repeats)
    views = np.bincount(places)
    assert len(views) == distinct
    assert set(views) <= {repeats - 1, repeats}
    pairs = mixed_pairs(batch_size, repeats, parts)
    assert all(a != b for a, b in pairs)
    assert len({frozenset(pair) for pair in pairs}) >= 0.99 * len(pairs)


def test_small_batches_of_views() -> None:
    """Too few images for a stride of each copy; but none is mixed with itself, if there are two."""
    for batch_size in range(2, 60, 2):
        for repeats in range(1, batch_size // 2 + 1):
            distinct = -(-batch_size // repeats)
            assert set(batch_places(batch_size, repeats)) == set(range(distinct))
            assert all(a != b for a, b in mixed_pairs(batch_size, repeats))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_pairs_of_a_real_batch(devices: int) -> None:
    """From the pipeline through the compiled mixup: each image is its own class."""
    images, repeats, batch_size = 400, 3, 96
    source = _Numbered(sources.open_split("digits", "train").source)
    split = dataclasses.replace(sources.open_split("digits", "train"), source=source)
    batch = next(
        train_batches(split, crops(), 0, batch_size, np.arange(batch_size), repeats, num_threads=0)
    )
    numbers, batch["label"] = np.unique(batch["label"], return_inverse=True)
    assert len(numbers) == batch_size // repeats < images
    layout = devices_lib.make_layout(jax.devices()[:devices])
    mixup = on_device.Augmentation(0, 0, 0, 0, 0, 0.02, 0.3, 0.3, 0.8, 0.0, 1.0, 0.0)
    targets = jax.jit(
        lambda batch: on_device.training_batch(
            jax.random.key(0), batch, mixup, (0.3,), (0.4,), len(numbers), 0.0
        )[1],
        out_shardings=layout.batch,
    )(devices_lib.shard_batch(layout, batch))
    found = [frozenset(np.flatnonzero(row).tolist()) for row in np.asarray(targets)]
    assert {len(pair) for pair in found} == {2}  # none is mixed with itself
    assert len(set(found)) == batch_size // 2  # each pair once, in two images of the batch


def shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    return record_order(length, seed)(epoch * length + np.arange(length))


def test_the_shuffle_is_as_even_as_chance() -> None:
    """As wide as ImageNet's repeated batches: 50,000 images, 342 in a batch, two seeds and epochs.

    Grain's usual 4 rounds give 6.6 and -0.06. The bounds are four deviations wide.
    """
    length, size = 50_000, 342
    batches, tenths, neighbours, again = length // size, [], [], []
    for seed in (0, 1):
        orders = [shuffled(length, seed, epoch) for epoch in (0, 1)]
        of_batch = []
        for order in orders:
            assert len(np.unique(order)) == length
            in_tenths = (order[: batches * size] * 10 // length).reshape(batches, size)
            counts = np.stack([(in_tenths == i).sum(1) for i in range(10)], axis=1)
            chi2 = np.square(counts - size / 10).sum(1) / (size / 10)
            tenths.append(chi2.mean() / (1 - size / length))
            neighbours.append(np.corrcoef(order[:-1], order[1:])[0, 1])
            of_batch.append(np.argsort(order) // size)
        # Pairs that share a batch in both epochs, over what chance would make of them.
        together = [np.bincount(of) for of in of_batch]
        both = np.unique(of_batch[0] * (batches + 1) + of_batch[1], return_counts=True)[1]
        pairs = [(n * (n - 1) / 2).sum() for n in (*together, both)]
        again.append(pairs[2] * (length * (length - 1) / 2) / (pairs[0] * pairs[1]))
    deviation = np.sqrt(18 / (batches * len(tenths)))  # chi² of 9 degrees of freedom
    assert abs(np.mean(tenths) - 9) < 4 * deviation
    assert abs(np.mean(neighbours)) < 4 / np.sqrt(length * len(neighbours))
    assert abs(np.mean(again) - 1) < 0.02


class _Numbered:
    """A source whose labels are the records' numbers."""

    def __init__(self, source: sources.Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        return {**self._source[index], "label": int(index)}


class _Damaged:
    """ImageNet's records, of which some are cut short."""

    def __init__(self, source: sources.Source, broken: set[int]) -> None:
        self._source, self._broken = source, broken

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        record = self._source[index]
        cut = len(record["image"]) // 2 if int(index) in self._broken else None
        return {**record, "image": record["image"][:cut], "label": int(index)}


@pytest.mark.parametrize("decoder", ["turbo", "pillow"])
def test_broken_images_are_replaced_and_masked_if_asked(decoder: str) -> None:
    split = sources.open_split("imagenet2012", "train")
    broken = {3, 4, 10}
    damaged = dataclasses.replace(split, source=_Damaged(split.source, broken))
    views = crops(train_crop="random_resized", image_size=32, decoder=decoder)
    size = np.arange(8)
    with pytest.raises(ValueError, match=r"Broken image: .*on_corrupt=skip"):
        list(itertools.islice(train_batches(damaged, views, 0, 8, size, num_threads=1), 3))

    def batches(split: sources.Split) -> list[dict[str, np.ndarray]]:
        stream = train_batches(split, views, 0, 8, size, num_threads=2, on_corrupt="skip")
        return list(itertools.islice(stream, 3))  # one epoch of 24 images

    seen = np.concatenate([batch["label"] for batch in batches(damaged)])
    corrupt = np.concatenate([batch["corrupt"] for batch in batches(damaged)])
    whole = [batch["label"] for batch in batches(_numbered_whole(split))]
    asked = np.concatenate(whole)
    np.testing.assert_array_equal(corrupt, np.isin(asked, list(broken)))
    follower = {3: 5, 4: 5, 10: 11}
    np.testing.assert_array_equal(seen, [follower.get(int(i), int(i)) for i in asked])

    evaluated = list(eval_batches(damaged, views, 8, size, num_threads=2, on_corrupt="skip"))
    mask = np.concatenate([batch["mask"] for batch in evaluated])
    assert [i for i in range(len(split)) if not mask[i]] == sorted(broken)
    assert sum(batch["corrupt"].sum() for batch in evaluated) == len(broken)


def _numbered_whole(split: sources.Split) -> sources.Split:
    return dataclasses.replace(split, source=_Damaged(split.source, set()))


def test_the_quick_decoder_is_close_to_pillow() -> None:
    split = sources.open_split("imagenet2012", "train")
    means = []
    for i in range(len(split)):
        pixels = [
            train_view(
                split.source[i],
                crops(train_crop="random_resized", image_size=64, decoder=decoder),
                random.Random(i),
            ).astype(int)
            for decoder in ("turbo", "pillow")
        ]
        means.append(np.abs(pixels[0] - pixels[1]).mean())
    assert max(means) < 1.0  # of 255: rounding
