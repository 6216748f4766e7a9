"""The pictures: made of real images and models, saved, and looked into."""

import dataclasses
import functools
import pathlib
import re
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from s2mlp_jax import visualize
from s2mlp_jax.cli import ExitCode
from s2mlp_jax.config import load_config, to_options
from s2mlp_jax.data.randaugment import OPERATIONS
from s2mlp_jax.models import create_model, init
from s2mlp_jax.models.backbone import Backbone
from s2mlp_jax.models.spatial_shift import BORDERS, PATTERNS, parse_pattern, spatial_shift
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.create import open_data
from s2mlp_jax.train.restore import Restored, evaluate_workdir, restore_run
from s2mlp_jax.visualize.block_features import principal_colors
from s2mlp_jax.visualize.confusion_matrix import confusion_counts
from s2mlp_jax.visualize.predictions import predict
from s2mlp_jax.visualize.receptive_fields import reachable, token_gradients
from s2mlp_jax.visualize.subject import block_outputs
from tests.helpers import ROOT, exit_code, tiny_config
from tests.test_models import small_model


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of a few steps, with averaged weights and mistakes."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(
        train__ema_decay=0.99,
        train__accumulation_steps=1,
        model__drop_path=0.0,
        optimizer__learning_rate=0.02,
        eval__every_epochs=9.0,
        checkpoint__every_epochs=9.0,
    )
    train_and_evaluate(config, folder, jax.devices()[:1])
    return str(folder)


@pytest.fixture(scope="module")
def restored(workdir: str) -> Restored:
    return restore_run(workdir)


def test_augment_draws_a_row_an_operation(tmp_path: pathlib.Path) -> None:
    config = load_config(str(ROOT / "configs/s2mlp_wide.py"), {"data.image_size": 32})
    figure = visualize.augment(config, visualize.load_images(""))
    names = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert names[2 : 2 + len(OPERATIONS)] == list(OPERATIONS)
    assert names[-1] == "the whole recipe"
    shown = {
        name: np.stack([ax.images[0].get_array() for ax in figure.axes[8 * i : 8 * i + 8]])
        for i, name in enumerate(names)
    }
    for name in OPERATIONS:
        assert (shown[name] != shown["evaluation"]).any(), name
    figure.savefig(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as page:
        assert page.width > 1000


@pytest.mark.parametrize("pattern", [*PATTERNS, "stay+up-left+stay", "down-right+right+left"])
def test_kernels_equal_the_shift_inside(pattern: str) -> None:
    groups = len(parse_pattern(pattern))
    x = np.random.RandomState(0).normal(size=(1, 5, 6, 2 * groups)).astype(np.float32)
    kernels = np.repeat(visualize.shift_kernels(pattern), 2, axis=0)
    convolved = sum(
        kernels[:, d, e].reshape(1, 1, 1, -1) * x[:, d : d + 3, e : e + 4]
        for d in range(3)
        for e in range(3)
    )
    assert (kernels.sum(axis=(1, 2)) == 1).all()
    for border in BORDERS:
        shifted = spatial_shift(jnp.asarray(x), pattern, border)
        np.testing.assert_array_equal(shifted[:, 1:-1, 1:-1], convolved)


def test_overview_shows_the_pattern_and_what_is_seen(tmp_path: pathlib.Path) -> None:
    """The diamond of N blocks holds 2 N (N + 1) + 1 tokens."""
    figure = visualize.overview()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [t for t in texts if t in ("right", "left", "down", "up")] == list(parse_pattern("a"))
    assert [t for t in texts if "block" in t and ":" in t][1:] == [
        f"{n} block{'s' if n > 1 else ''}: {2 * n * (n + 1) + 1}" for n in (1, 2, 3, 4)
    ]
    figure.savefig(tmp_path / "page.png")


def test_shift_names_the_groups_and_what_the_border_gets() -> None:
    figure = visualize.shift("right+up+stay", "circular", channels=8)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"right", "3 of 8 (0 to 2)", "up", "3 of 8 (3 to 5)", "stay", "2 of 8 (6 to 7)"} <= set(
        texts
    )
    start = texts.index("3 of 8 (0 to 2)") + 1 + 9  # after the kernel's numbers
    assert texts[start : start + 8] == ["4", "1", "2", "3", "8", "5", "6", "7"]


def tiny_model(**fields: typing.Any) -> tuple[Backbone, typing.Any]:
    """A model with weights; of one size, so that drawing them is compiled once."""
    model = create_model("s2mlp_digits", 10, dim=16, **fields)
    return model, init(model, jax.random.key(0), 6, 3)


def ball(pattern: str, border: str, grid: tuple[int, int], blocks: int) -> np.ndarray:
    """What the centre sees, by its distance from it; (g) moves up, so that it sees below."""
    rows, columns = np.indices(grid)
    down, right = rows - grid[0] // 2, columns - grid[1] // 2
    if border == "circular":
        around = down % grid[0]
        down = np.where(around * 2 > grid[0], around - grid[0], around)
        ahead = rows - grid[0] // 2 + grid[0] * (rows < grid[0] // 2)
    else:
        ahead = np.where(down < 0, 99, down)
    distance = {
        "a": np.abs(down) + np.abs(right),
        "b": np.maximum(np.abs(down), np.abs(right)),
        "e": np.abs(down) + 99 * (right != 0),
        "g": ahead + 99 * (right != 0),
        "none": 99 * ((down != 0) | (right != 0)),
    }
    return distance[pattern] <= blocks


@pytest.mark.parametrize(
    ("pattern", "border"),
    [
        *((pattern, "keep") for pattern in ("a", "b", "e", "g", "none")),
        *((pattern, "circular") for pattern in ("a", "g")),
    ],
)
def test_what_a_token_sees_is_measured_as_in_theory(pattern: str, border: str) -> None:
    grid, depth = (4, 7), 2
    model, variables = tiny_model(shift=pattern, border=border, depth=depth)
    noise = np.random.RandomState(0).normal(size=(1, 2 * grid[0], 2 * grid[1], 3))
    measured = token_gradients(model, variables, noise)
    theory = reachable(pattern, border, grid, depth)
    assert len(measured) == len(theory) == depth
    for blocks in range(1, depth + 1):
        np.testing.assert_array_equal(measured[blocks - 1] > 0, theory[blocks - 1])
        assert (measured[blocks - 1][theory[blocks - 1]] > 1e-6).all()  # no rounding error
        np.testing.assert_array_equal(
            theory[blocks - 1], ball(pattern, border, grid, blocks), err_msg=f"{blocks} blocks"
        )


def test_branches_that_start_near_zero_still_let_a_token_see() -> None:
    model, variables = tiny_model(shift="f", norm="affine", depth=8)
    noise = np.random.RandomState(0).normal(size=(1, 2, 40, 3))
    measured = token_gradients(model, variables, noise)
    assert [(field > 0).sum() for field in measured] == [3, 5, 7, 9, 11, 13, 15, 17]


def test_blocks_are_given_in_order() -> None:
    model, variables = tiny_model(depth=3)
    images = np.random.RandomState(0).normal(size=(2, 8, 8, 3)).astype(np.float32)

    def answer(depth: int) -> tuple[jax.Array, list[jax.Array]]:
        cut = model.clone(variant=dataclasses.replace(model.variant, depth=depth), remat=True)
        return jax.jit(functools.partial(block_outputs, cut))(variables, images)

    blocks = answer(3)[1]
    assert [block.shape for block in blocks] == [(2, 4, 4, 16)] * 3
    head = variables["params"]["head"]
    for depth in (2, 3):  # pooling and the head follow the last block
        logits = blocks[depth - 1].mean(axis=(1, 2)) @ head["kernel"] + head["bias"][None]
        np.testing.assert_allclose(answer(depth)[0], logits, rtol=1e-4, atol=1e-6)


def test_principal_colors_order_tokens_along_their_components() -> None:
    rng = np.random.RandomState(0)
    axes, _ = np.linalg.qr(rng.normal(size=(10, 2)))
    places = np.stack([np.linspace(-3, 3, 20), np.cos(np.arange(20.0))], axis=1)
    places -= places.mean(axis=0, keepdims=True)
    tokens = (places @ axes.T).reshape(4, 5, 10) + 7.0
    colors, shares = principal_colors(tokens)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[0] > shares[1] > shares[2] == 0
    along = np.abs(np.corrcoef(colors[..., 0].ravel(), np.arange(20.0))[0, 1])
    assert along > 0.99
    assert (colors[..., 2] == 0.5).all()
    assert (colors[..., :2].min(), colors[..., :2].max()) == (0, 1)
    assert (principal_colors(np.ones((2, 2, 4)))[0] == 0.5).all()


def test_features_of_a_colour_image_need_no_data(tmp_path: pathlib.Path) -> None:
    fields = {
        "model.depth": 8,
        "model.dim": 16,
        "model.patch_size": 2,
        "data.image_size": 6,
        "data.data_dir": str(tmp_path),  # nothing is there
    }
    config = load_config(str(ROOT / "configs/s2mlp_cifar10.py"), fields)
    file = tmp_path / "photograph.png"
    Image.fromarray(visualize.load_images("")[0]).save(file)
    figure = visualize.features(config=config, image=str(file))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0].startswith("input, 3x3 tokens")
    assert [int(title.split()[1]) for title in titles[1:7]] == [1, 2, 4, 5, 7, 8]
    assert figure.axes[0].images[0].get_array().shape == (6, 6, 3)
    assert figure.axes[1].images[0].get_array().shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("name", "grids"), [("deit_ti", [4, 4]), ("as_mlp_t", [4, 2]), ("resnet_50", [8, 4])]
)
def test_outputs_of_the_relatives_are_grids(name: str, grids: list[int]) -> None:
    model = small_model(name)
    variables = init(model, jax.random.key(0), 8, 3)
    _, blocks = block_outputs(model, variables, jnp.ones((2, 8, 8, 3)))
    assert [block.shape[:3] for block in blocks] == [(2, side, side) for side in grids]


def test_features_of_an_untrained_model_say_nothing_of_the_class() -> None:
    config = tiny_config()
    split = open_data(to_options(config).data)[1]
    said = visualize.features(config=config, index=2).axes[3].texts[0].get_text()
    assert said == f"index 2\ntrue: {split.source[2]['label']}"


def test_predictions_are_those_of_the_evaluation(workdir: str, restored: Restored) -> None:
    evaluation = evaluate_workdir(workdir)
    assert evaluation["eval/accuracy_top1"] != evaluation["eval_ema/accuracy_top1"]
    predictions = predict(restored)
    np.testing.assert_array_equal(predictions.index, np.arange(360))
    counts = confusion_counts(predictions, 10)
    assert counts.sum() == evaluation["eval_ema/count"] == 360
    assert counts.trace() / counts.sum() == evaluation["eval_ema/accuracy_top1"]
    labels = [restored.run.eval_split.source[i]["label"] for i in range(360)]
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(labels))
    np.testing.assert_array_equal(
        counts.sum(axis=0), np.bincount(predictions.predicted, minlength=10)
    )
    title = visualize.confusion(workdir).axes[0].get_title()
    assert title.startswith(f"{counts.trace() / 360:.2%} correct: {counts.trace()} of 360")


def test_errors_are_the_most_confident_ones(workdir: str, restored: Restored) -> None:
    found = predict(restored)
    wrong = found.predicted != found.label
    figure = visualize.errors(workdir, count=11)
    shown = [ax for ax in figure.axes if ax.get_xlabel()]
    indices = [int(ax.get_xlabel().removeprefix("index ")) for ax in shown]
    assert len(set(indices)) == 11
    assert wrong[indices].all()
    left_out = np.setdiff1d(np.flatnonzero(wrong), indices)
    assert (np.diff(found.probability[indices]) <= 0).all()
    assert found.probability[indices].min() >= found.probability[left_out].max()
    images = np.concatenate([batch["image"] for batch in restored.run.eval_batches()])
    for ax, i in zip(shown, indices, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[i, ..., 0])
        label = restored.run.eval_split.source[i]["label"]
        said = f"true: {label}\nsays: {found.predicted[i]}, {found.probability[i]:.0%}"
        assert ax.get_title() == said


RUN = "--workdir=RUN"
COMMANDS = {
    "shift": ["shift", "right+stay+stay"],
    "all shifts": ["shift", "--channels=24"],
    "receptive field": [
        "receptive-field",
        "--model=s2mlp_digits",
        "--dim=16",
        "--depth=1",
        "--grid=3",
    ],
    "receptive field of a run": ["receptive-field", RUN, "--checkpoint=best"],
    "features of a run": ["features", RUN, "--index=7"],
    "features of a file": ["features", RUN, "--image=IMAGE"],
    "confusion": ["confusion", RUN],
    "errors": ["errors", RUN, "--count=3"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_picture_is_drawn(
    name: str, workdir: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.chdir(ROOT)
    photograph = tmp_path / "photograph.png"
    Image.fromarray(visualize.load_images("")[0]).save(photograph)
    output = tmp_path / "picture.png"
    words = [
        word.replace("RUN", workdir).replace("IMAGE", str(photograph)) for word in COMMANDS[name]
    ]
    visualize.main([*words, f"--output={output}"])
    with Image.open(output) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    ink = (pixels != 255).any(axis=-1)
    assert ink.mean() > 0.02
    assert len({tuple(pixel) for pixel in pixels[::7, ::7].reshape(-1, 3)}) > 20
    # Nothing is cut off: what is drawn keeps off the page's edges.
    assert not any(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))


def test_the_ending_says_the_format(tmp_path: pathlib.Path) -> None:
    figure = visualize.shift("a")
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for ending, start in starts.items():
        visualize.save(figure, str(tmp_path / f"shift{ending}"))
        assert (tmp_path / f"shift{ending}").read_bytes().startswith(start)
    assert figure._repr_png_().startswith(starts[".png"])  # what a notebook asks for


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shift", "sideways"], r"pattern 'sideways'.*a, b,.*up-left"),
        (["shift", "a", "--border=wrap"], r"'wrap'.*keep, zero, circular"),
        (["shift", "b", "--channels=3"], r"3 channels.*8"),
        (["shift", "a", "--output=x.jpg"], r"'x.jpg'.*\.png, \.svg, \.pdf"),
        (["shift", "a", "--output=nowhere/x.png"], r"no folder 'nowhere'"),
        (["shift", "a", "--channels=many"], r"--channels.*'many'"),
        (["shifts"], r"'shifts'.*shift.*errors"),
        (["confusion", "--workdir=nowhere"], r"no folder .*nowhere; the folder of a run"),
        (["confusion"], r"--workdir"),
        (["receptive-field", "--grid=0"], r"grid.*0"),
        (["receptive-field", "--model=s3mlp"], r"'s3mlp'.*s2mlp_wide"),
        (["receptive-field", "--workdir=x", "--depth=3"], r"leave out depth"),
        (["features"], r"workdir or a config"),
        (["features", RUN, "--index=360"], r"no image 360.*0 to 359"),
        (["features", RUN, "--image=nothing.png"], r"nothing.png"),
        (["errors", RUN, "--count=0"], r"count.*0"),
        (["errors", RUN, "--checkpoint=77"], r"'77'.*latest, best"),
        (["augment", "--config=configs/s2mlp_digits.py"], r"colour.*1 channel"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    told: str,
    workdir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(ROOT)
    words = [word.replace("RUN", workdir) for word in arguments]
    if not any(word.startswith("--output") for word in words):
        words.append("--output=x.png")
    assert exit_code(visualize.main, words) == ExitCode.BAD_INPUT
    message = capsys.readouterr().err
    assert re.fullmatch(f"Error: .*{told}.*\n", message)  # one line: the dot takes no line break
    assert not (ROOT / "x.png").exists()


def test_a_folder_without_images_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    command = ["augment", "--output=x.png", f"--images={tmp_path}"]
    assert visualize.main(command) == ExitCode.BAD_INPUT
    assert re.search(f"no images.*{tmp_path}|{tmp_path}.*no images", capsys.readouterr().err)
    assert "matplotlib.pyplot" not in sys.modules  # no window, no global state
