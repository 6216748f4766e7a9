"""Quality loss and savings of a copy of ImageNet with a small short side.

  python -m benchmarks.short_side --data_dir=DATA

DATA contains a prepared imagenet2012. Its first images are reduced as in `s2mlp_jax.data.prepare
--short_side`, at several JPEG qualities. Evaluation views and random resized crops of the copies
are compared with the same views of the originals.
"""

import io
import random
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks import common
from s2mlp_jax.data import jpeg, sources, turbo
from s2mlp_jax.data.decoding import decode
from s2mlp_jax.data.prepare.reduce import encoder, reduce_image
from s2mlp_jax.data.views import Crops, draw_view

_SIZE, _SHORT = 224, 256  # pixels of a view; the short side before the central crop
_SETTINGS = [(quality, subsampling) for subsampling in (2, 0) for quality in (85, 90, 95, 98)]
_CROPS = 4  # crops per image in the timing of decoding
_NAMES = {0: "4:4:4", 2: "4:2:0"}

Box = tuple[float, float, float, float]


def main() -> None:
    """Measures and prints the table."""
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--short_side", type=int, default=256)
    arguments = parser.parse_args()
    split = sources.open_split("imagenet2012", "train", arguments.data_dir)
    count = min(arguments.images, len(split))
    originals = [split.source[i]["image"] for i in range(count)]

    copies = {
        f"{quality}, {_NAMES[subsampling]}": [
            reduce_image(image, arguments.short_side, quality, subsampling) for image in originals
        ]
        for quality, subsampling in _SETTINGS
    }
    files = {"the original": originals, **copies}
    measured = {name: _decoding(images) for name, images in files.items()}
    measured |= {f"crops of {name}": _decoding_crops(images) for name, images in files.items()}
    times = common.alternate(measured, arguments.rounds)
    changed = [i for i in range(count) if copies["95, 4:4:4"][i] is not originals[i]]
    references = [_views(originals[i], i) for i in changed]
    rows = []
    for name, images in files.items():
        cells = [name, f"{np.mean([len(image) for image in images]) / 1e3:.1f}"]
        for what in ("", "crops of "):
            cells.append(common.ratio(times[what + name], times[what + "the original"]))
        if name == "the original":
            rows.append([*cells, "", "", "", ""])
            continue
        differences = [
            [view - other for view, other in zip(_views(images[i], i), reference, strict=True)]
            for i, reference in zip(changed, references, strict=True)
        ]
        for kind in range(2):
            errors = [difference[kind] for difference in differences]
            cells.append(f"{np.mean([np.abs(error).mean() for error in errors]):.2f}")
            cells.append(f"{np.mean([_psnr(error) for error in errors]):.1f}")
        rows.append(cells)
    columns = ["quality, colours", "kB per image", "decoding", "for crops"]
    columns += ["evaluation: error", "PSNR", "training: error", "PSNR"]
    legend = (
        f"{count} images, of which {len(changed)} have a short side over {arguments.short_side} "
        f"pixels and are reduced, bicubic; {encoder()}. Decoding: CPU time relative to the "
        "original, for whole images with Pillow. For crops: the same for the random resized crops "
        f"of training, {_CROPS} per image, without the rows above the crop in a copy and below it "
        "in both. Error: mean absolute difference of the values of the view, in levels of 255. "
        f"PSNR: in dB, mean over the reduced images. Views of {_SIZE} pixels, bicubic: "
        "evaluation's (short side 256, central crop) and training's (random resized crop, area "
        "0.08 to 1, the same part)."
    )
    header = common.header(f"ImageNet with the short side at {arguments.short_side}")
    common.publish([header, common.table(columns, rows), legend], arguments.output)


def _decoding(images: list[bytes]) -> Callable[[], float]:
    def measure() -> float:
        start = time.process_time()
        for image in images:
            decode({"image": image, "index": 0, "key": ""}, 3, "")
        return time.process_time() - start

    return measure


def _decoding_crops(images: list[bytes]) -> Callable[[], float]:
    crops = Crops(_SIZE, "random_resized", 0.08, 0, 0.5, 1.0, "bicubic", "turbo")
    work: list[tuple[bytes, list[tuple[int, int, int, int]]]] = []
    for image in images:
        header, rng = jpeg.read_header(image), random.Random(len(work))
        if header is not None:
            boxes = [draw_view(header.height, header.width, crops, rng).box for _ in range(_CROPS)]
            work.append((image, boxes))

    def measure() -> float:
        start = time.process_time()
        for image, boxes in work:
            for _, top, _, bottom in boxes:
                header = jpeg.read_header(image)
                assert header is not None
                turbo.decode(image, header, top, bottom)
        return time.process_time() - start

    return measure


def _views(image: bytes, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the evaluation view and a training view, (224, 224, 3) float."""
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    short = min(picture.size)
    width, height = (max(_SHORT, side * _SHORT // short) for side in picture.size)
    left, top = (width - _SIZE) // 2, (height - _SIZE) // 2
    whole = picture.resize((width, height), Image.Resampling.BICUBIC)
    evaluation = whole.crop((left, top, left + _SIZE, top + _SIZE))
    part = _part(picture.size, seed)
    training = picture.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC, box=part)
    return np.asarray(evaluation).astype(float), np.asarray(training).astype(float)


def _part(size: tuple[int, int], seed: int) -> Box:
    """Samples a box of the image; its relative position and size depend only on the seed."""
    rng = np.random.default_rng(seed)
    side = [np.sqrt(rng.uniform(0.08, 1.0)) * length for length in size]
    left, top = (rng.uniform(0, length - part) for length, part in zip(size, side, strict=True))
    return left, top, left + side[0], top + side[1]


def _psnr(error: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean(error**2)))


if __name__ == "__main__":
    main()
