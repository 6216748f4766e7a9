"""Images from strangers: one limit for every decoder, and whatever is broken can be skipped."""

import io
import os
import pathlib
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_sample_images

from s2mlp_jax.data import jpeg, sources, turbo
from s2mlp_jax.data.decoding import MAX_PIXELS, BrokenImageError, decode, read_file, read_pixels
from s2mlp_jax.data.pipeline import eval_batches, train_batches
from s2mlp_jax.data.prepare.reduce import reduce_image
from s2mlp_jax.data.views import Crops, read_eval_view
from s2mlp_jax.predict import _read
from s2mlp_jax.saved.preprocessing import Preprocessing
from tests.helpers import tiny_config

PICTURE = Image.fromarray(load_sample_images().images[0]).resize((48, 40))
HOW = Preprocessing(8, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)


def crops(decoder: str = "turbo", **fields: int) -> Crops:
    return Crops(8, "random_resized", 0.08, 0, 0.5, 1.0, "bicubic", decoder, **fields)


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, kind)
    return file.getvalue()


def declaring(width: int, height: int) -> bytes:
    """A JPEG whose header gives another size."""
    file = bytearray(encoded("JPEG"))
    header = jpeg.read_header(bytes(file))
    assert header is not None
    file[header.height_at : header.height_at + 4] = np.array([height, width], ">u2").tobytes()
    return bytes(file)


def bad_tiff() -> bytes:
    """A TIFF whose directory is damaged: Pillow raises a TypeError."""
    file = bytearray(encoded("TIFF"))
    file[72] = 7  # the type of the sixth tag, where the pixels begin
    with pytest.raises(TypeError):
        Image.open(io.BytesIO(bytes(file))).load()
    return bytes(file)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Eight images in train/a, two in val/a."""
    root = tmp_path / "images"
    for part, count in (("train", 8), ("val", 2)):
        (root / part / "a").mkdir(parents=True)
        for i in range(count):
            PICTURE.save(root / part / "a" / f"{i}.jpg")
    return root


def spoil(file: pathlib.Path, how: str) -> None:
    """Makes something else of a file."""
    if how in FILES:
        file.write_bytes(FILES[how]())
        return
    file.unlink()
    if how == "dangling link":
        file.symlink_to(file.with_name("gone"))
    elif how == "loop of links":
        file.symlink_to(file)
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "device":
        file.symlink_to("/dev/zero")
    elif how == "folder":
        file.symlink_to(file.parent)


FILES = {
    "empty": lambda: b"",
    "cut": lambda: encoded("JPEG")[:300],
    "text": lambda: b"no image",
    "TIFF": bad_tiff,
    "too large": lambda: declaring(40_000, 40_000),
}
WAYS = [*FILES, "deleted", "dangling link", "loop of links", "pipe", "device", "folder"]


@pytest.mark.parametrize("how", WAYS)
def test_skip_skips_every_broken_image(folder: pathlib.Path, how: str) -> None:
    """In training and evaluation, with a cache and without; "stop" stops, naming the file."""
    # "deleted": meanwhile. The others are there when the folder is opened.
    late = how in ("deleted", "folder")
    splits = {}
    if late:
        splits = {part: sources.open_split(f"folder:{folder}", part) for part in ("train", "val")}
    for name in ("train/a/3.jpg", "val/a/1.jpg"):
        spoil(folder / name, how)
    if not late:
        splits = {part: sources.open_split(f"folder:{folder}", part) for part in ("train", "val")}
    train, val = splits["train"], splits["val"]
    for decoder in ("turbo", "pillow"):
        for a, b in ((train, val), (train.cached("skip"), val.cached("skip"))):
            batch = next(train_batches(a, crops(decoder), 0, 8, np.arange(8), on_corrupt="skip"))
            assert batch["corrupt"].sum() == 1
            (batch,) = eval_batches(b, crops(decoder), 2, np.arange(2), on_corrupt="skip")
            assert (batch["mask"].sum(), batch["corrupt"].sum()) == (1, 1)
        with pytest.raises(BrokenImageError, match=r"folder:\S+ train, record a/3.jpg") as caught:
            next(train_batches(train, crops(decoder), 0, 8, np.arange(8)))
        assert "BytesIO" not in str(caught.value)
        assert "\n" not in str(caught.value)
    for split, name in ((train, "a/3.jpg"), (val, "a/1.jpg")):
        with pytest.raises(BrokenImageError, match=f"record {name}"):
            split.cached()
    said = _read(HOW, folder / "val/a/1.jpg")
    assert isinstance(said, str)
    assert "BytesIO" not in said


def test_a_run_skips_with_a_cache(folder: pathlib.Path) -> None:
    from s2mlp_jax.config import to_options
    from s2mlp_jax.train.create import open_data

    spoil(folder / "train/a/3.jpg", "cut")
    how = {"data__name": f"folder:{folder}", "data__eval_split": "val", "data__cache": True}
    with pytest.raises(BrokenImageError, match=r"record a/3.jpg"):
        open_data(to_options(tiny_config(**how)).data)
    train, _ = open_data(to_options(tiny_config(**how, data__on_corrupt="skip")).data)
    assert len(train) == 8


@pytest.mark.parametrize("error", [TypeError("x"), IndexError(), RecursionError(), MemoryError()])
def test_whatever_pillow_raises_is_one_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(BrokenImageError, match=rf"record 7, 3 bytes: .*{type(error).__name__}"):
        decode({"image": b"abc", "index": 7}, 3, "x")


def test_a_full_table_of_files_is_not_the_images_fault(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = sources.open_split(f"folder:{folder}", "val")

    def fails(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(ValueError, match=r"Cannot read \S+: Too many open files") as caught:
        list(eval_batches(split, crops(), 2, np.arange(2), on_corrupt="skip"))
    assert not isinstance(caught.value, BrokenImageError)


def test_a_damaged_file_of_any_kind_is_an_image_or_a_broken_one() -> None:
    """Twelve hundred files with some bytes changed."""
    rng, how = np.random.default_rng(0), crops(max_pixels=100_000)
    said = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        whole = np.frombuffer(encoded(kind), np.uint8)
        for _ in range(200):
            file = whole.copy()
            places = rng.integers(0, min(len(file), 400), 4)
            file[places] = rng.integers(0, 256, 4)
            try:
                read_eval_view({"image": file.tobytes(), "index": 0}, 3, "", how)
            except BrokenImageError as error:
                said.append(str(error))
    assert len(said) > 100
    assert not any("BytesIO" in text or "\n" in text for text in said)


def test_one_limit_for_every_decoder() -> None:
    """The size is read from the header: no time, no memory."""
    limit = r"it has more than the 178,956,970 pixels that are read \(data.max_pixels\)"
    bomb = {"image": declaring(40_000, 40_000), "index": 0}
    started = time.process_time()
    tracemalloc.start()
    for decoder in ("turbo", "pillow"):
        split = sources.Split("s", [bomb | {"label": 0}], 1, 3, (), "")  # type: ignore[arg-type]
        with pytest.raises(BrokenImageError, match=limit):
            next(train_batches(split, crops(decoder), 0, 1, np.arange(1), num_threads=0))
        with pytest.raises(BrokenImageError, match=limit):
            list(eval_batches(split, crops(decoder), 1, np.arange(1), num_threads=0))
    with pytest.raises(BrokenImageError, match=limit):
        HOW.pixels(io.BytesIO(bomb["image"]))
    with pytest.raises(BrokenImageError, match=limit):
        reduce_image(bomb["image"], 256, 95)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert time.process_time() - started < 2


@pytest.mark.parametrize("decoder", ["turbo", "pillow"])
def test_the_limit_is_a_field(decoder: str) -> None:
    record = {"image": encoded("JPEG"), "index": 0, "label": 0}
    split = sources.Split("s", [record], 1, 3, (), "")  # type: ignore[arg-type]
    for limit, fits in ((48 * 40, True), (48 * 40 - 1, False)):
        how = crops(decoder, max_pixels=limit)
        for batches in (
            train_batches(split, how, 0, 1, np.arange(1)),
            eval_batches(split, how, 1, np.arange(1)),
        ):
            if fits:
                assert next(batches)["image"].any()
            else:
                with pytest.raises(BrokenImageError, match="48 x 40 pixels, and at most 1,919"):
                    next(batches)
    assert tiny_config().data.max_pixels == crops().max_pixels == MAX_PIXELS


def test_a_higher_limit_is_pillows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_pixels(io.BytesIO(encoded("PNG")), 3).shape == (40, 48, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # somebody has lifted it
    assert read_pixels(io.BytesIO(encoded("PNG")), 3).shape == (40, 48, 3)


def test_a_long_image_is_not_blown_up() -> None:
    """One row of pixels, brought to 64 rows."""
    file = io.BytesIO()
    Image.new("L", (10_000, 1)).save(file, "PNG")
    how = Crops(64, "resize", 1.0, 0, 0.0, 1.0, "bicubic", "pillow", max_pixels=100_000)
    with pytest.raises(BrokenImageError, match=r"record 0.* 640,000 x 64 pixels after the resize"):
        read_eval_view({"image": file.getvalue(), "index": 0}, 3, "", how)
    for fields, message in (
        ({"image_size": 80_000}, r"^data.image_size must be in \[1, 8192\], got 80000"),
        ({"image_size": 4_000}, "^data.max_pixels 100,000 is less than the 4,000 x 4,000 pixels"),
        ({"eval_crop_ratio": 0.1}, "less than the 640 x 640 pixels .* data.eval_crop_ratio 0.1 re"),
        ({"eval_crop_ratio": 1e-4}, "^data.eval_crop_ratio must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            Crops(**{**vars(how), **fields})


def test_text_in_a_png_is_no_bomb() -> None:
    """Pillow limits it; the error is one of an image."""
    info = PngImagePlugin.PngInfo()
    info.add_text("x", "0" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    file = io.BytesIO()
    PICTURE.save(file, "PNG", pnginfo=info)
    with pytest.raises(BrokenImageError, match="Decompressed data too large"):
        read_pixels(io.BytesIO(file.getvalue()), 3)


def test_a_file_that_may_not_be_read(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:  # the tests may be root's
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", fails)
    file = folder / "val/a/0.jpg"
    with pytest.raises(BrokenImageError, match=r"0.jpg: it cannot be read \(Permission denied\)"):
        read_file(file)
    with pytest.raises(BrokenImageError, match=rf"^{file}: it cannot be read \(Permission den"):
        HOW.pixels(file)


def test_turbo_is_here() -> None:
    assert not turbo.MISSING  # else the tests above do not see it
