"""A folder of images as a data set: order, labels, splits, channels, and what goes wrong."""

import collections
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from s2mlp_jax.config import override
from s2mlp_jax.data import sources
from s2mlp_jax.data.decoding import decode
from s2mlp_jax.data.pipeline import eval_batches, train_batches
from s2mlp_jax.data.prepare import __main__ as prepare
from s2mlp_jax.data.views import Crops
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.create import create_experiment
from tests.helpers import ROOT, read_lines, tiny_config
from tests.test_cli import environment

SPLITS = {"train": "train", "val": "test"}  # ours -> of the digits
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CROPS = Crops(8, "pad", 0.08, 1, 0.5, 1.0, "bicubic", "turbo")
PHOTOGRAPHS = [Image.fromarray(image).resize((96, 64)) for image in load_sample_images().images]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The digits, all 1797, as PNG files; not to be changed."""
    root = tmp_path_factory.mktemp("digits")
    for ours, theirs in SPLITS.items():
        split = sources.open_split("digits", theirs)
        for name in DIGITS:
            (root / ours / name).mkdir(parents=True)
        for record in (split.source[i] for i in range(len(split))):
            place = root / ours / DIGITS[record["label"]] / f"{record['index']:04d}.png"
            place.write_bytes(record["image"])
    return root


@pytest.fixture
def photographs(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two photographs, cut in pieces: six JPEGs a class to train on, two to evaluate."""
    root = tmp_path / "photographs"
    for (name, picture), (part, count) in itertools.product(
        zip(("china", "flower"), PHOTOGRAPHS, strict=True), (("train", 6), ("val", 2))
    ):
        (root / part / name).mkdir(parents=True)
        for i in range(count):
            piece = picture.crop((8 * i, 0, 8 * i + 40, 64))
            piece.save(root / part / name / f"{i}.jpg", quality=95)
    return root


def open_split(root: pathlib.Path, split: str = "train", cache: bool = False) -> sources.Split:
    return sources.open_split(f"folder:{root}", split, cache=cache)


def keys(split: sources.Split) -> list[str]:
    return [split.source[i]["key"] for i in range(len(split))]


def by_their_hash(files: list[str]) -> list[str]:
    return sorted(files, key=lambda file: hashlib.sha1(file.encode()).hexdigest())


def test_records(digits: pathlib.Path) -> None:
    split, test = open_split(digits), open_split(digits, "val")
    assert (len(split), len(test), split.channels, test.channels) == (1437, 360, 1, 1)
    assert split.num_classes == test.num_classes == 10
    assert split.class_names == test.class_names == tuple(sorted(DIGITS))
    assert split.name == f"folder:{digits} train"
    assert split.path == str(digits)
    for part in (split, test):
        for i in (0, 1, 200, len(part) - 1):
            record = part.source[np.int64(i)]
            file = digits / part.name.split()[-1] / record["key"]
            assert record == {
                "image": file.read_bytes(),
                "label": sorted(DIGITS).index(file.parent.name),
                "index": i,
                "key": f"{file.parent.name}/{file.name}",
            }
            assert type(record["index"]) is int
    cached = open_split(digits, "val", cache=True)
    for i in range(len(test)):
        record = test.source[i]
        np.testing.assert_array_equal(cached.source[i].pop("image"), decode(record, 1, ""))
        assert cached.source[i]["key"] == record["key"]


def test_batches_are_those_of_the_same_records_from_elsewhere(digits: pathlib.Path) -> None:
    """For one, two and four processes; the records of a TFDS set, put in the folder's order."""
    tfds = sources.open_split("digits", "train")
    records = {f"{DIGITS[r['label']]}/{i:04d}.png": r for i, r in enumerate(map_of(tfds))}

    class Reordered:
        def __len__(self) -> int:
            return len(tfds)

        def __getitem__(self, index: int) -> dict:
            key = in_order[index]
            label = sorted(DIGITS).index(key.split("/")[0])
            return {**records[key], "label": label, "index": int(index)}

    in_order = by_their_hash(list(records))
    reference = sources.Split("reference", Reordered(), 10, 1, (), "")
    split = open_split(digits)

    def take(split: sources.Split, positions: np.ndarray, threads: int) -> list[dict]:
        batches = train_batches(split, CROPS, 3, 24, positions, 2, num_threads=threads)
        return list(itertools.islice(batches, 3))

    whole = take(reference, np.arange(24), 0)
    for processes in (1, 2, 4):
        for positions in np.arange(24).reshape(processes, -1):
            for expected, batch in zip(whole, take(split, positions, 2), strict=True):
                assert batch.keys() == expected.keys()
                for name in batch:
                    np.testing.assert_array_equal(batch[name], expected[name][positions])
    evaluated = zip(
        eval_batches(reference, CROPS, 500, np.arange(500)),
        eval_batches(split, CROPS, 500, np.arange(500)),
        strict=True,
    )
    for expected, batch in evaluated:
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def map_of(split: sources.Split) -> list[dict]:
    return [split.source[i] for i in range(len(split))]


def test_order_follows_from_the_names_alone(
    photographs: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = keys(open_split(photographs))
    names = [f"{name}/{i}.jpg" for name in ("china", "flower") for i in range(6)]
    assert here == by_their_hash(names) != names
    # Another place, other times of creation, and another order on the disk.
    for name in sorted(names, reverse=True):
        copy = tmp_path / "copy/train" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photographs / "train" / name, copy)
    assert keys(open_split(tmp_path / "copy")) == here
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            self._entries = scandir(path)

        def __enter__(self) -> list[os.DirEntry]:
            return sorted(self._entries, key=lambda entry: entry.name, reverse=True)

        def __exit__(self, *error: object) -> None:
            self._entries.close()

    monkeypatch.setattr(os, "scandir", Backwards)
    backwards = open_split(photographs)
    assert backwards.class_names == ("china", "flower")
    assert keys(backwards) == here


@pytest.mark.parametrize(
    "spec",
    [
        "train",
        "train[:10%]",
        "train[33%:67%]",
        "train[90%:]",
        "train[100:300]",
        "train[-50:]",
        "train[5:-7]",
        "train[:7%]+train[90%:]",
        "train[:1%] + test",
    ],
)
def test_parts_are_cut_as_by_tfds(digits: pathlib.Path, spec: str) -> None:
    part = open_split(digits, spec.replace("test", "val"))
    assert len(part) == len(sources.open_split("digits", spec)) > 0
    assert [part.source[i]["index"] for i in range(len(part))] == list(range(len(part)))
    whole = {name: keys(open_split(digits, name)) for name in ("train", "val")}
    cut = {  # what Python's slices give, by TFDS's rounding of 1437
        "train[:10%]": whole["train"][:144],
        "train[90%:]": whole["train"][1293:],
        "train[5:-7]": whole["train"][5:-7],
        "train[:1%] + test": whole["train"][:14] + whole["val"],
    }
    assert keys(part) == cut.get(spec, keys(part))


def test_a_part_has_some_of_every_class(digits: pathlib.Path) -> None:
    first, rest = open_split(digits, "train[:20%]"), open_split(digits, "train[20%:]")
    assert set(keys(first)).isdisjoint(keys(rest))
    assert len(first) + len(rest) == 1437
    counts = collections.Counter(key.split("/")[0] for key in keys(first))
    assert len(counts) == 10
    assert min(counts.values()) > 15  # of 29 on average


def test_labels_and_channels_are_those_of_train(photographs: pathlib.Path) -> None:
    shutil.rmtree(photographs / "val/china")  # a class that is not evaluated
    for file in (photographs / "val/flower").iterdir():
        Image.open(file).convert("L").save(file)
    val = open_split(photographs, "val")
    assert (val.num_classes, val.channels, len(val)) == (2, 3, 2)
    assert {val.source[i]["label"] for i in range(2)} == {1}


def test_files_of_all_kinds(
    photographs: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is an image is told by its ending, and is taken in wherever it lies in its class."""
    china = photographs / "train/china"
    picture = PHOTOGRAPHS[0]
    (china / "more/and more").mkdir(parents=True)
    picture.convert("CMYK").save(china / "more/and more/cmyk.JPEG")
    picture.convert("L").save(china / "grey.jpg")
    picture.convert("P").save(china / "palette.GIF")
    picture.convert("RGBA").save(china / "more/alpha.Png")
    for ending in ("webp", "bmp", "tiff", "ppm"):
        picture.save(china / f"it.{ending}")
    elsewhere = photographs.parent / "linked"
    elsewhere.mkdir()
    picture.save(elsewhere / "far.jpeg")
    (china / "link").symlink_to(elsewhere)
    new = {"more/and more/cmyk.JPEG", "grey.jpg", "palette.GIF", "more/alpha.Png", "link/far.jpeg"}
    new |= {f"it.{ending}" for ending in ("webp", "bmp", "tiff", "ppm")}
    # None of these is one.
    hidden = [china / ".hidden.jpg", china / ".cache/x.jpg", photographs / "train/.cache/x.jpg"]
    others = [china / "a.txt", china / "b.TXT", china / "more/LICENSE", china / "jpg"]
    stray = photographs / "train/stray.jpg"
    for file in (*hidden, *others, stray, photographs / ".git/config", photographs / "notes.md"):
        file.parent.mkdir(exist_ok=True)
        shutil.copy(china / "0.jpg", file)
    monkeypatch.chdir(photographs.parent)
    split = sources.open_split("folder:photographs/", "train")
    added = set(keys(split)) - {f"{n}/{i}.jpg" for n in ("china", "flower") for i in range(6)}
    assert added == {f"china/{name}" for name in new}
    for record in map_of(split):
        pixels = decode(record, split.channels, split.name)
        assert pixels.shape[2] == 3
        if record["key"][6:] in new - {"grey.jpg", "palette.GIF"}:
            assert np.abs(pixels.astype(float) - np.asarray(picture)).mean() < 6, record["key"]
    views = next(train_batches(split, CROPS, 0, 21, np.arange(21)))  # all of them
    assert views["image"].shape == (21, 8, 8, 3)
    open_split(photographs, "train[:50%]")  # says nothing again
    assert capsys.readouterr().out == (
        f"Skipped 5 files in {photographs}/train that are not images of a class: .txt 2, "
        "outside the classes 1, without an ending 2\n"
    )


def test_the_home_folder(photographs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photographs.parent))
    assert sources.open_split("folder:~/photographs", "val").path == str(photographs)


def test_grey_images_alone_make_one_channel(photographs: pathlib.Path) -> None:
    files = sorted((photographs / "train").rglob("*.jpg"))
    for file in files:
        Image.open(file).convert("L").save(file)
    assert open_split(photographs).channels == open_split(photographs, "val").channels == 1
    with pytest.raises(ValueError, match="images of 1 channels, but data.mean .* are for 3"):
        create_experiment(
            tiny_config(
                data__name=f"folder:{photographs}",
                data__eval_split="val",
                data__mean=(0.5, 0.5, 0.5),
                data__std=(0.5, 0.5, 0.5),
            )
        )
    grey = {"data__name": f"folder:{photographs}", "data__eval_split": "val", "data__cache": True}
    for mean, channels in (((0.5, 0.5, 0.5), 3), ((0.5,), 1)):
        config = tiny_config(
            **grey, data__channels=channels, data__mean=mean, data__std=mean, train__batch_size=2
        )
        run = create_experiment(config, jax.devices()[:1])
        assert next(run.train_batches(0))["image"].shape == (2, 8, 8, channels)
        assert run.describe_data()["channels"] == channels
    (photographs / "train/china/0.jpg").write_bytes(b"no image")  # says nothing of channels
    assert open_split(photographs).channels == 1
    PHOTOGRAPHS[1].save(photographs / "train/flower/3.jpg")
    assert open_split(photographs).channels == 3
    read = sources.open_split(f"folder:{photographs}", "val", cache=True, channels=1)
    assert read.source[0]["image"].shape[-1] == read.channels == 1
    deep = Image.fromarray(np.full((8, 8), 1000, np.uint16))
    for file in files:
        deep.save(file.with_suffix(".png"))
        file.unlink()
    with pytest.raises(ValueError, match=r"china/0.png has more than 8 bits .*'?I;16.*8 bits\.$"):
        open_split(photographs)


def test_broken_images(photographs: pathlib.Path) -> None:
    broken = {"train/china/2.jpg": slice(300), "train/flower/4.jpg": slice(0)}
    broken["val/flower/1.jpg"] = slice(400)
    for name, part in broken.items():
        file = photographs / name
        file.write_bytes(file.read_bytes()[part])
    split, rows = open_split(photographs), np.arange(12)
    message = rf"Broken image: folder:{photographs} train, record \w+/[24].jpg, \d+ bytes: "
    with pytest.raises(ValueError, match=message):
        next(train_batches(split, CROPS, 0, 12, rows))
    batch = next(train_batches(split, CROPS, 0, 12, rows, on_corrupt="skip"))
    assert batch["corrupt"].sum() == 2
    val = open_split(photographs, "val")
    with pytest.raises(ValueError, match="val, record flower/1.jpg, 400 bytes: .*on_corrupt=skip"):
        list(eval_batches(val, CROPS, 4, np.arange(4)))
    with pytest.raises(ValueError, match="record flower/1.jpg"):
        open_split(photographs, "val", cache=True)
    (batch,) = eval_batches(val, CROPS, 4, np.arange(4), on_corrupt="skip")
    assert [keys(val)[i] for i in np.flatnonzero(batch["corrupt"])] == ["flower/1.jpg"]


def test_mistakes_are_named(photographs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def fails(message: str, split: str = "train", root: pathlib.Path = photographs) -> None:
        with pytest.raises(ValueError, match=f"^{message}$"):
            open_split(root, split)

    layout = r"Images are to lie in train/CLASS/ and val/CLASS/, in a folder for each class\."
    here = re.escape(str(photographs))
    nowhere = tmp_path / "nowhere"
    fails(f"There is no folder {nowhere}. {layout}", root=nowhere)
    nowhere.write_text("a file")
    fails(f"There is no folder {nowhere}. {layout}", root=nowhere)
    fails(f"{here}/val has no folder train, but china, flower. {layout}", root=photographs / "val")
    fails(
        f"{here}/val/china has no folder train, but no folder at all. {layout}",
        root=photographs / "val/china",
    )
    cut = "cut train in two: train_split=train.:90%. eval_split=train.90%:.."
    for split in ("validation", "train+validation[:5]", "", "all"):
        name = re.escape(repr(split))
        fails(f"{here} has no split {name}. It has train, val. Without .*, {cut}", split)
    fails(
        rf"{here} \(train, 12 images\) has no split 'train\[:13\]'. Requested slice \[:13\] "
        r"incompatible with 12 examples\.",
        "train[:13]",
    )
    fails(r"\S+ \(train, 12 images\) has no split 'train\[:x\]'. Unrecognized.*", "train[:x]")
    fails(rf"The split 'train\[:1%\]' of {here} is empty.", "train[:1%]")

    shutil.copytree(photographs / "val/china", photographs / "val/cat")
    shutil.copytree(photographs / "val/china", photographs / "val/dog")
    fails(
        f"{here}/val has classes that {here}/train has not: cat, dog. Their images .* no label.",
        "val",
    )
    open_split(photographs)  # is not at fault
    for name in ("china", "flower"):
        for file in (photographs / "train" / name).iterdir():
            file.rename(file.with_suffix(".jxl"))
    fails(
        rf"There is no image \(.jpg .jpeg .png .*\) in these classes of {here}/train: "
        r"china, flower. Remove the folders that are not classes\."
    )
    shutil.rmtree(photographs / "train")
    shutil.move(photographs / "val/china", photographs / "train")
    fails(
        f"2 images lie directly in {here}/train, such as 0.jpg, and there are no classes. {layout}"
    )
    for file in (photographs / "train").iterdir():
        file.unlink()
    fails(f"There are no classes in {here}/train. {layout}")


def test_names_without_a_path_and_paths_without_the_name() -> None:
    with pytest.raises(ValueError, match="'/my/images' is a path. .* is folder:/my/images."):
        sources.open_split("/my/images", "train")
    with pytest.raises(ValueError, match="'folder:' needs a path, as in folder:/my/images"):
        sources.open_split("folder:", "train")
    with pytest.raises(ValueError, match="Unknown data set 'my_images'.*folder:PATH"):
        sources.open_split("my_images", "train")


def test_what_cannot_be_read_is_named(
    photographs: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_split(photographs)
    file = photographs / "train/china/3.jpg"
    file.unlink()
    file.symlink_to(photographs / "gone")
    with pytest.raises(ValueError, match=r"china/3.jpg: it cannot be read \(No such file"):
        next(train_batches(split, CROPS, 0, 12, np.arange(12)))
    scandir = os.scandir

    def refuse(path: str) -> os.DirEntry:  # even root's tests see it
        if path.endswith("flower"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=f"^Cannot read {photographs}/train/flower: Permission de"):
        open_split(photographs)


def test_there_is_nothing_to_prepare(
    photographs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        prepare.prepare(prepare._parser().parse_args(arguments))
        return capsys.readouterr().out

    name = f"folder:{photographs}"
    said = run(name)
    assert "12 images in train, 2 classes, channels: 3. There is nothing to prepare." in said
    assert f"--config.data.name={name} " in said
    for options in ((name, "--short_side=64"), (name, "--wnids=x"), ("mine", f"--source={name}")):
        with pytest.raises(ValueError, match="Copies and subsets .* not of folders of images"):
            run(*options)
    with pytest.raises(ValueError, match="There is no folder /nowhere"):
        run("folder:/nowhere")
    sources.prepare(name, "", download=True)  # does nothing
    assert sorted(file.name for file in photographs.iterdir()) == ["train", "val"]


@pytest.fixture(scope="module")
def trained(
    digits: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """A config, and the folder of its run of some steps."""
    data = {"data__name": f"folder:{digits}", "data__eval_split": "val"}
    steps = {"train__steps": 4, "train__accumulation_steps": 1, "train__ema_decay": 0.0}
    config = tiny_config(**data, **steps)
    workdir = tmp_path_factory.mktemp("run")
    train_and_evaluate(config, workdir)
    return config, workdir


def test_training(trained: tuple[ml_collections.ConfigDict, pathlib.Path]) -> None:
    config, workdir = trained
    assert read_lines(workdir)[-1]["eval/count"] == 360
    cut = {"data.train_split": "train[:90%]", "data.eval_split": "train[90%:]"}
    run = create_experiment(override(config, cut))
    assert (len(run.train_split), len(run.eval_split)) == (1293, 144)


@pytest.mark.slow
def test_evaluation_by_the_command(
    trained: tuple[ml_collections.ConfigDict, pathlib.Path], digits: pathlib.Path
) -> None:
    _, workdir = trained
    done = subprocess.run(
        [sys.executable, "main.py", "--mode=eval", f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment(),  # one device
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"folder:{digits} val at 8x8 pixels" in done.stdout
    line, last = json.loads((workdir / "eval.jsonl").read_text()), read_lines(workdir)[-1]
    assert line["eval/accuracy_top1"] == last["eval/accuracy_top1"]
    assert line["eval/loss"] == pytest.approx(last["eval/loss"], rel=1e-5)
