"""Rows cut out of JPEG files: the pixels are those of the whole file, and damage is noticed."""

import io
import itertools
import pathlib
import random

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from s2mlp_jax.data import jpeg, turbo
from s2mlp_jax.data.decoding import BrokenImageError, decode
from s2mlp_jax.data.prepare.reduce import reduce_image
from s2mlp_jax.data.views import Crops, train_views

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
PHOTOGRAPH = Image.fromarray(load_sample_images().images[0])  # 640x427
SIZES = ((1, 1), (9, 7), (17, 64), (341, 33), (100, 257))
MARKERS = {"restart_marker_rows": 1, "optimize": True}


def encoded(size: tuple[int, int], mode: str = "RGB", subsampling: int = 0, **how) -> bytes:  # noqa: ANN003
    file = io.BytesIO()
    picture = PHOTOGRAPH.resize(size).convert(mode)
    picture.save(file, "JPEG", subsampling=subsampling, **how)
    return file.getvalue()


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def some_rows(height: int) -> list[tuple[int, int]]:
    """Every edge of a block and its neighbours, as the first and as the last row."""
    edges = [y for y in range(height + 1) if y % 8 in (0, 1, 7) or y == height]
    pairs = list(itertools.combinations(edges, 2))
    return random.Random(height).sample(pairs, min(len(pairs), 25))


def assert_rows(data: bytes, quick: bool) -> None:
    """Compares rows decoded alone with the whole file's; checks how many are decoded."""
    header = jpeg.read_header(data)
    whole = pillow(data)
    assert header is not None
    assert (header.height, header.width) == whole.shape[:2]
    assert bool(header.marks) == (quick and header.height > header.segment)
    for top, bottom in some_rows(header.height):
        found = turbo.decode(data, header, top, bottom)
        assert found is not None
        pixels, first = found
        np.testing.assert_array_equal(pixels[top - first : bottom - first], whole[top:bottom])
        if header.marks:  # a block above and below, at the most
            assert top - first <= header.segment
            assert first + len(pixels) <= bottom + header.segment


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mode", "subsampling"), [("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2)])
def test_rows_decoded_alone_are_those_of_the_whole(
    size: tuple[int, int], mode: str, subsampling: int
) -> None:
    marked = encoded(size, mode, subsampling, **MARKERS)
    indexed = jpeg.add_index(marked)
    np.testing.assert_array_equal(pillow(indexed), pillow(marked))  # it stays a standard file
    assert_rows(indexed, quick=True)
    assert_rows(marked, quick=False)  # nobody says where the markers are
    for how in (
        {},
        {"progressive": True},
        {"restart_marker_rows": 2},
        {"restart_marker_blocks": 5},
    ):
        data = encoded(size, mode, subsampling, **how)
        assert jpeg.add_index(data) == data
        assert_rows(data, quick=False)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/imagenet_sample")
def test_rows_of_real_images_and_their_copies() -> None:
    for path in sorted((SHARED / "imagenet_sample").glob("*.JPEG"))[:8]:
        image = path.read_bytes()
        header = jpeg.read_header(image)
        if header is not None:
            assert_rows(image, quick=False)
        copy = reduce_image(image, 100, 95)
        if copy is not image:
            assert_rows(copy, quick=True)


def views(data: bytes, decoder: str) -> np.ndarray:
    """Makes four views; raises BrokenImageError."""
    crops = Crops(32, "random_resized", 0.08, 0, 0.5, 1.0, "nearest", decoder)
    out = np.zeros((4, 32, 32, 3), np.uint8)
    record = {"image": data, "index": 0}
    for seed in range(4):
        train_views(record, 3, "", crops, [random.Random(seed)], [out[seed]])
    return out


def test_damage_is_found_or_left_to_pillow() -> None:
    """A file whose markers are wrong has the pixels that Pillow gives it, or is refused."""
    data = jpeg.add_index(encoded((200, 160), **MARKERS))
    header = jpeg.read_header(data)
    assert header is not None
    marks = [header.data_at + mark for mark in header.marks]
    assert len(marks) == 19
    index_at = data.index(b"Restart markers: ") + len(b"Restart markers: ") + 2

    def changed(at: int, new: bytes) -> bytes:
        return data[:at] + new + data[at + len(new) :]

    whole = pillow(data)
    wrong_index = [changed(index_at + 4 * i + 3, bytes([data[index_at + 4 * i + 3] ^ 1]))
                   for i in range(19)]  # fmt: skip
    for file in wrong_index:  # the picture is whole: it is decoded from its beginning
        lying = jpeg.read_header(file)
        assert lying is not None
        for top, bottom in ((0, 160), (40, 90), (100, 130)):
            found = turbo.decode(file, lying, top, bottom)
            assert found is not None
            pixels, first = found
            np.testing.assert_array_equal(pixels[top - first : bottom - first], whole[top:bottom])
    damaged = [changed(mark + 1, b"\xd9") for mark in marks]
    damaged += [changed(mark, b"\x00\x00") for mark in marks]
    damaged += [data[: mark + 2] + data[marks[i + 2] + 2 :] for i, mark in enumerate(marks[:16])]
    for file in damaged:
        top, bottom = 50, 100
        found = turbo.decode(file, jpeg.read_header(file), top, bottom)
        if found is not None:  # these rows are whole
            pixels, first = found
            np.testing.assert_array_equal(pixels[top - first : bottom - first], whole[top:bottom])
    assert turbo.decode(data, header, 0, 40) is not None
    assert turbo.decode(data[:-2], header, 0, 40) is None  # even if its end is not needed
    for file in (data[:-2], data[: len(data) // 2], data[: header.data_at - 3], data[:300]):
        with pytest.raises(BrokenImageError):
            views(file, "turbo")


def test_views_of_a_copy_are_those_of_its_pixels() -> None:
    for mode, size in (("RGB", (341, 256)), ("L", (256, 301))):
        data = jpeg.add_index(encoded(size, mode, **MARKERS))
        pixels = decode({"image": data, "index": 0}, 3, "")
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        np.testing.assert_array_equal(views(data, "turbo"), views(file.getvalue(), "turbo"))
