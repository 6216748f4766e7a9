"""Preparing data by the command line: ImageNet's tars and oddities, smaller copies, subsets."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_sample_images

from s2mlp_jax.data import sources
from s2mlp_jax.data.decoding import decode
from s2mlp_jax.data.prepare import __main__ as prepare
from s2mlp_jax.data.prepare import derived, tars
from s2mlp_jax.data.prepare.reduce import reduce_image
from tests.helpers import made_once

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
PHOTOGRAPHS = [np.asarray(image) for image in load_sample_images().images]  # 427x640
WNIDS = (pathlib.Path(tfds.__file__).parent / "datasets/imagenet2012/labels.txt").read_text()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "s2mlp_jax.data.prepare", *arguments]


def run(*arguments: str, expect: int = 0) -> str:
    """Runs the command line; returns what it printed."""
    done = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def prepare_here(*arguments: str) -> None:
    """Does the same in this process: for what ends before TensorFlow is needed."""
    prepare.prepare(prepare._parser().parse_args(arguments))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:  # noqa: ANN003
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(which: int = 0, size: tuple[int, int] = (320, 200)) -> Image.Image:
    return Image.fromarray(PHOTOGRAPHS[which]).resize(size)


def turned() -> bytes:
    """A JPEG whose EXIF data ask for a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photograph(), exif=exif, quality=98)


# The names are those that TFDS treats in its own way: a PNG and one of 22 CMYK images.
TRAIN = {
    "n02105855_2933.JPEG": encoded(photograph(), "PNG"),
    "n01739381_1309.JPEG": encoded(photograph().convert("CMYK"), quality=98),
    "n01739381_7.JPEG": encoded(photograph(1).convert("CMYK"), quality=98),
    "n01440764_1.JPEG": encoded(photograph(1).convert("L"), quality=98),
    "n01440764_2.JPEG": turned(),
    "n02105855_9.JPEG": encoded(photograph(1, (100, 90)), quality=98),
    "n02066245_1.JPEG": encoded(photograph(1), quality=98)[:3000],  # cut off
}


def write_tar(path: pathlib.Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_tars(folder: pathlib.Path, images: dict[str, bytes]) -> None:
    """Packs images as the official archives are packed; two of them as validation images."""
    by_class: dict[str, dict[str, bytes]] = {}
    for name, content in sorted(images.items()):
        by_class.setdefault(name.split("_")[0], {})[name] = content
    inner = {}
    for wnid, files in by_class.items():
        write_tar(folder / "inner.tar", files)
        inner[f"{wnid}.tar"] = (folder / "inner.tar").read_bytes()
    write_tar(folder / tars.TRAIN, inner)
    two = list(images.values())[:2]
    write_tar(
        folder / tars.VALIDATION,
        {f"ILSVRC2012_val_{i:08d}.JPEG": content for i, content in enumerate(two, start=1)},
    )


def prepare_oddities() -> pathlib.Path:
    """Prepares ImageNet made of its oddities, once per session.

    Returns a folder with the prepared data, data/, and what was printed, printed.txt.
    """

    def make(folder: pathlib.Path) -> None:
        write_tars(folder, TRAIN)
        tars = [f"--manual_dir={folder}", "--allow_other_tars"]
        printed = run("imagenet2012", *tars, f"--data_dir={folder}/data")
        (folder / "printed.txt").write_text(printed)

    return made_once("imagenet_oddities", make)


@pytest.fixture(scope="module")
def prepared() -> tuple[pathlib.Path, str]:
    """Returns the folder of prepared data and what was printed."""
    folder = prepare_oddities()
    return folder / "data", (folder / "printed.txt").read_text()


def records(name: str, split: str, folder: pathlib.Path) -> dict[str, dict]:
    source = sources.open_split(name, split, str(folder)).source
    return {record["key"]: record for record in (source[i] for i in range(len(source)))}


@pytest.mark.slow
def test_the_oddities_of_imagenet_pass(prepared: tuple[pathlib.Path, str]) -> None:
    data, printed = prepared
    assert "9 images" in printed
    assert "train 7, validation 2 images" in printed
    found = records("imagenet2012", "train", data)
    assert found.keys() == TRAIN.keys()
    names = sources.open_split("imagenet2012", "train", str(data)).class_names
    for name, record in found.items():
        assert names[record["label"]] == name.split("_")[0]

    def error(name: str, image: Image.Image) -> float:
        pixels = decode(found[name], 3, "imagenet2012").astype(float)
        assert pixels.shape == (image.height, image.width, 3)
        return float(np.abs(pixels - np.asarray(image.convert("RGB"))).mean())

    # A JPEG of quality 98 or more is within 2.5 of 255 levels, wrong colours are 50 and more off.
    assert error("n02105855_2933.JPEG", photograph()) < 2.5
    assert error("n01739381_1309.JPEG", photograph()) < 2.5
    assert error("n01739381_7.JPEG", photograph(1)) < 2.5
    assert error("n01440764_1.JPEG", photograph(1).convert("L")) < 2.5
    assert error("n01440764_2.JPEG", photograph()) < 2.5  # not turned
    # TFDS makes JPEGs of the PNG and of the CMYK image, both in colour; the rest is untouched.
    changed = {name for name in TRAIN if found[name]["image"] != TRAIN[name]}
    assert changed == {"n02105855_2933.JPEG", "n01739381_1309.JPEG"}
    for name in changed:
        image = Image.open(io.BytesIO(found[name]["image"]))
        assert (image.format, image.mode) == ("JPEG", "RGB")
    with pytest.raises(ValueError, match="Broken image: imagenet2012 train"):
        decode(found["n02066245_1.JPEG"], 3, "imagenet2012 train")
    assert set(records("imagenet2012", "validation", data)) == {
        "ILSVRC2012_val_00000001.JPEG",
        "ILSVRC2012_val_00000002.JPEG",
    }


@pytest.mark.slow
def test_pillow_and_tensorflow_see_the_same_colours(
    prepared: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    """Of a CMYK image as it is, of the one that TFDS converts, and of a grey one."""
    data, _ = prepared
    found = records("imagenet2012", "train", data)
    names = ("n01739381_7.JPEG", "n01739381_1309.JPEG", "n01440764_1.JPEG")
    for name in names:
        (tmp_path / name).write_bytes(found[name]["image"])
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "for name in sys.argv[1:]:\n"
        "    pixels = tf.io.decode_jpeg(open(name, 'rb').read(), channels=3)\n"
        "    np.save(name + '.npy', pixels)"
    )
    subprocess.run(
        [sys.executable, "-c", script, *names], cwd=tmp_path, check=True, capture_output=True
    )
    for name in names:
        pixels = np.load(tmp_path / f"{name}.npy").astype(float)
        # TensorFlow's quicker inverse DCT makes 1.8 of 255 levels; wrong colours are 50 off.
        assert np.abs(pixels - decode(found[name], 3, name)).mean() < 2.5, name


@pytest.mark.slow
def test_a_second_start_finds_it_there(prepared: tuple[pathlib.Path, str]) -> None:
    data, _ = prepared
    printed = run("imagenet2012", f"--data_dir={data}")
    assert "There already" in printed
    assert "imagenet2012/5.1.0" in printed
    assert "train 7, validation 2 images" in printed


@pytest.mark.slow
def test_a_broken_image_stops_a_copy_by_name(prepared: tuple[pathlib.Path, str]) -> None:
    data, _ = prepared
    printed = run("imagenet2012", "--short_side=64", f"--data_dir={data}", expect=2)
    assert "Broken image in imagenet2012/5.1.0: n02066245_1.JPEG, 3000 bytes" in printed
    assert list((data / "imagenet2012_64").iterdir()) == []


@pytest.mark.slow
def test_subset_with_a_short_side(
    prepared: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    data, _ = prepared
    wnids = tmp_path / "mine.txt"
    wnids.write_text("# three of them\nn02105855\nn01440764\n\nn01739381  # a snake\n")
    arguments = ["mine", f"--wnids={wnids}", f"--data_dir={data}", "--short_side=128"]
    with pytest.raises(ValueError, match="has 7 images in train, the real one 1,281,167"):
        prepare_here(*arguments)
    run(*arguments, "--allow_other_counts")
    split = sources.open_split("mine_128", "train", str(data))
    assert split.class_names == ("n01440764", "n01739381", "n02105855")
    assert split.num_classes == 3
    assert split.metadata["short_side"] == 128
    assert split.metadata["jpeg_quality"] == 95
    assert split.metadata["resampling"] == "bicubic"
    assert split.metadata["jpeg_restart_rows"] == 1
    assert split.metadata["source"] == "imagenet2012/5.1.0"
    assert split.metadata["classes"] == list(split.class_names)
    original = records("imagenet2012", "train", data)
    found = records("mine_128", "train", data)
    assert found.keys() == {name for name in TRAIN if not name.startswith("n02066245")}
    for name, record in found.items():
        assert split.class_names[record["label"]] == name.split("_")[0]
        image, before = (Image.open(io.BytesIO(r[name]["image"])) for r in (found, original))
        assert image.size == ((204, 128) if min(before.size) > 128 else before.size)
        assert image.mode == ("L" if name == "n01440764_1.JPEG" else "RGB")
    small = "n02105855_9.JPEG"
    assert found[small]["image"] == original[small]["image"]
    prepare_here(*arguments)  # it is there already
    with pytest.raises(ValueError, match="was prepared with another jpeg_quality: 95"):
        prepare_here(*arguments, "--quality=80")
    # The wnids of the file are wrong.
    wnids.write_text("n01440764\nn99999999\n")
    other = ["other", f"--wnids={wnids}", f"--data_dir={data}", "--allow_other_counts"]
    with pytest.raises(ValueError, match="n99999999: no class of imagenet2012/5.1.0, whose 1000"):
        prepare_here(*other)
    wnids.write_text("n01440764\nn01443537\n")
    assert "in train: n01443537 has 0; a class must have 1 or more" in run(*other, expect=2)
    assert list((data / "other").iterdir()) == []


# Sends itself a signal when half of the images are written, and that in a destructor: an exception
# that a signal's handler raises there is printed, and lost.
INTERRUPTED = """
import os, sys
from tensorflow_datasets.core import writer
from s2mlp_jax.data.prepare.__main__ import main

number, count = int(sys.argv.pop(1)), int(sys.argv.pop(1))
written, write = [], writer.Writer.write

class Garbage:
    def __del__(self):
        os.kill(os.getpid(), number)

def interrupted_write(self, key, example):
    write(self, key, example)
    written.append(key)
    if len(written) == count:
        Garbage()

writer.Writer.write = interrupted_write
main()
"""


@pytest.mark.slow
def test_interrupted_it_is_started_again(tmp_path: pathlib.Path) -> None:
    """Stopped three times while it writes; each start clears up, the last has the right data."""
    image = encoded(photograph(), quality=98)
    images = {f"n01440764_{i}.JPEG": image for i in range(40)}
    write_tars(tmp_path, images)
    data = tmp_path / "data"
    arguments = [
        "imagenet2012",
        f"--manual_dir={tmp_path}",
        f"--data_dir={data}",
        "--allow_other_tars",
    ]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, str(int(number)), "20", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        killed = number == signal.SIGKILL
        assert done.returncode == (-signal.SIGKILL if killed else 75), done.stdout + done.stderr
        assert killed or done.stderr.endswith("cleared up. Start the same command again.\n")
        left = list((data / "imagenet2012").iterdir())
        assert len(left) == (1 if killed else 0), number
        assert "which an interrupted attempt left" not in done.stdout + done.stderr
    assert "which an interrupted attempt left" in run(*arguments)
    assert [path.name for path in (data / "imagenet2012").iterdir()] == ["5.1.0"]
    assert len(sources.open_split("imagenet2012", "train", str(data))) == 40


def test_other_data_sets_by_name(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("digits", "synthetic"):
        prepare_here(name, f"--data_dir={tmp_path}/new")
        said = "There is nothing to prepare. Train on it: --config.data.name="
        assert capsys.readouterr().out == f"{said}{name}\n"
        for options in ((name, "--short_side=64"), ("mine", f"--source={name}", "--wnids=x")):
            with pytest.raises(ValueError, match="not of folders of images, the digits or synth"):
                prepare_here(*options)
    assert not (tmp_path / "new").exists()
    for arguments, message in (
        (["mnist"], "TFDS has to fetch files for mnist. Let it use the network: --download"),
        (["imagenet2012"], "name the folder that holds them by --manual_dir"),
        (["cifar11"], "Unknown data set 'cifar11'.*Did you mean .*'cifar10'"),
        (["imagenet100"], "'imagenet2012' is not prepared in"),
        (["cifar10", "--wnids=x.txt"], "'cifar10' is taken"),
        (["My-set", "--wnids=x.txt"], "is small letters, digits and _"),
        (["mine", "--wnids=x.txt"], "Cannot read the list of classes x.txt"),
        (["cifar10", "--short_side=-1"], "--short_side must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_here(*arguments, f"--data_dir={tmp_path}")


def test_messages_name_the_command(tmp_path: pathlib.Path) -> None:
    for name, wanted in (
        ("imagenet2012_256", "prepare imagenet2012 --data_dir=.* --short_side=256"),
        ("imagenet100", "prepare imagenet100 --data_dir="),
        ("imagenet100_256", "prepare imagenet100 --data_dir=.* --short_side=256"),
        ("cifar10", "prepare cifar10 --data_dir=.* --download"),
        ("imagenet2012", "prepare imagenet2012 --data_dir=.* --manual_dir="),
    ):
        with pytest.raises(ValueError, match=f"{name!r} is not prepared in .*{wanted}"):
            sources.open_split(name, "train", str(tmp_path))
    with pytest.raises(ValueError, match="Unknown data set 'imagenet_256'"):
        sources.open_split("imagenet_256", "train", str(tmp_path))


def test_a_copy_is_no_worse_than_its_quality() -> None:
    image = encoded(photograph(0, (640, 427)), quality=98)
    reference = np.asarray(
        Image.open(io.BytesIO(image)).resize((383, 256), Image.Resampling.BICUBIC)
    )
    errors = []
    for quality in (70, 95):
        smaller = Image.open(io.BytesIO(reduce_image(image, 256, quality)))
        assert smaller.size == (383, 256)
        errors.append(np.abs(np.asarray(smaller).astype(float) - reference).mean())
    assert errors[1] < 2.0 < errors[0]
    assert reduce_image(image, 427, 10) is image
    png = encoded(photograph(), "PNG")
    assert Image.open(io.BytesIO(reduce_image(png, 100, 95))).format == "PNG"
    cmyk = Image.open(io.BytesIO(reduce_image(TRAIN["n01739381_7.JPEG"], 100, 95)))
    assert (cmyk.mode, cmyk.size) == ("RGB", (160, 100))
    difference = np.asarray(cmyk).astype(float) - np.asarray(photograph(1).resize((160, 100)))
    assert np.abs(difference).mean() < 4.0
    with pytest.raises(ValueError, match="truncated"):
        reduce_image(image[:5000], 1000, 95)


def test_imagenet100_is_the_draw_that_is_written_down() -> None:
    drawn = np.random.RandomState(2106).choice(WNIDS.split(), 100, replace=False)
    file = ROOT / "s2mlp_jax" / "data" / "prepare" / "imagenet100.txt"
    assert derived.read_classes(file) == tuple(sorted(drawn.tolist()))


@pytest.mark.parametrize(
    ("text", "message"), [("# none\n", "lists no class"), ("a\nb\na\n", "lists a more than once")]
)
def test_bad_lists_of_classes(tmp_path: pathlib.Path, text: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        derived.read_classes(tmp_path / "list.txt")


def test_counts_of_imagenet() -> None:
    names = ("n1", "n2")
    derived._check_counts("train", [732, 1300], names, (732, 1300))
    with pytest.raises(ValueError, match="in train: n2 has 1301; a class must have 732 to 1300"):
        derived._check_counts("train", [1000, 1301], names, (732, 1300))
    with pytest.raises(ValueError, match="in validation: n1 has 49; a class must have 50 to 50"):
        derived._check_counts("validation", [49, 50], names, (50, 50))
    derived._check_counts("validation", [0, 1], names, None)


def test_tars_are_checked(tmp_path: pathlib.Path) -> None:
    def refused(message: str, allow_other: bool = True) -> None:
        with pytest.raises(ValueError, match=message):
            tars.check_tars(tmp_path, allow_other)

    refused(f"{tmp_path}.*lacks {tars.TRAIN} and {tars.VALIDATION}", allow_other=False)
    write_tars(tmp_path, TRAIN)
    contents = tars.check_tars(tmp_path, allow_other=True)
    assert contents.images == len(TRAIN) + 2
    refused(f"{tars.TRAIN} has [0-9,]+ bytes, the official file has 147,897,477,120", False)
    for name in (tars.TRAIN, tars.VALIDATION):
        whole = (tmp_path / name).read_bytes()
        with tarfile.open(tmp_path / name) as tar:
            second = tar.getmembers()[1].offset
        for broken in (
            whole[: len(whole) // 2],
            whole[:512],
            whole[:second],  # a whole file, and no mark of the end
            whole[: len(whole) // 2] + bytes(4 << 20),  # an unfinished download, its space reserved
            b"<html>not found</html>",
            b"",
        ):
            (tmp_path / name).write_bytes(broken)
            refused(f"{name} is not a complete tar: .*Fetch it again")
        (tmp_path / name).write_bytes(whole)
    inner = {"n01440764.tar": (tmp_path / "inner.tar").read_bytes()[:-10240]}
    write_tar(tmp_path / tars.TRAIN, inner)
    refused(f"n01440764.tar in .*{tars.TRAIN} is not a complete tar")


def test_official_tars_are_known_by_size(tmp_path: pathlib.Path) -> None:
    """Files of the right size that hold nothing, as an unfinished download may be."""
    write_tars(tmp_path, TRAIN)
    for name, size in ((tars.TRAIN, 147_897_477_120), (tars.VALIDATION, 6_744_924_160)):
        os.truncate(tmp_path / name, size)  # sparse: takes no room
    with pytest.raises(ValueError, match="the rest is zeros"):
        tars.check_tars(tmp_path, allow_other=False)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/imagenet_sample")
def test_real_images_from_tars_to_training(tmp_path: pathlib.Path) -> None:
    """Real tars, a copy of it, a subset of that; two training steps on the last."""
    manual, data = tmp_path / "tars", tmp_path / "data"
    subprocess.run([sys.executable, SHARED / "make_imagenet_tars.py", manual], check=True)
    run("imagenet2012", f"--manual_dir={manual}", f"--data_dir={data}", "--allow_other_tars")
    run("imagenet2012", "--short_side=256", f"--data_dir={data}")
    ten = sorted(path.name[:9] for path in (SHARED / "imagenet_sample").glob("*.JPEG"))[:10]
    (tmp_path / "ten.txt").write_text("\n".join(ten))
    run("ten", f"--wnids={tmp_path}/ten.txt", "--short_side=256", f"--data_dir={data}",
        "--source=imagenet2012_256", "--allow_other_counts")  # fmt: skip
    full = records("imagenet2012", "train", data)
    copy = records("imagenet2012_256", "train", data)
    subset = records("ten_256", "train", data)
    assert len(full) == len(copy) == 64
    assert {key.split("_")[0] for key in subset} == set(ten)
    for key, record in copy.items():
        before, after = (Image.open(io.BytesIO(r["image"])) for r in (full[key], record))
        assert min(after.size) == min(256, *before.size)
        assert record["label"] == full[key]["label"]
        assert key not in subset or subset[key]["image"] == record["image"]
    done = subprocess.run(
        [sys.executable, "main.py", "--config=configs/s2mlp_wide.py", f"--workdir={tmp_path}/run",
         "--config.data.name=ten_256", f"--config.data.data_dir={data}",
         "--config.data.eval_split=train", "--config.data.image_size=64",
         "--config.model.depth=1", "--config.model.dim=32", "--config.train.batch_size=8",
         "--config.train.steps=2", "--config.eval.batch_size=8",
         "--config.optimizer.warmup_epochs=0"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
