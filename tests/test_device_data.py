"""Images in the devices' memory: the same order as on the host, equal views, and exact resume."""

import dataclasses
import itertools
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2mlp_jax.config import to_options
from s2mlp_jax.data import resident, sources
from s2mlp_jax.data.pipeline import train_batches
from s2mlp_jax.data.views import View, make_view
from s2mlp_jax.saved.metrics import read_metrics
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train import feed, train_and_evaluate
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.loop import Stopped
from s2mlp_jax.train.signals import StopRequest
from s2mlp_jax.train.step_metrics import NonFiniteLossError, StepMetrics
from tests.helpers import assert_same_run, tiny_config

DATA = to_options(tiny_config(data__place="device")).data


def image_of(number: int, side: int) -> np.ndarray:
    return np.random.RandomState(number).randint(0, 256, (side, side, 3), np.uint8)


class Numbered:
    """Different images whose labels are their numbers."""

    def __init__(self, length: int, side: int = 8) -> None:
        self._length, self._side = length, side

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, typing.Any]:
        return {"image": image_of(index, self._side), "label": index, "index": index}


def numbered(length: int, side: int = 8) -> sources.Split:
    return sources.Split("numbered", Numbered(length, side), length, 3, (), "")


@pytest.mark.parametrize("repeats", [1, 3])
def test_steps_see_the_host_s_images_in_its_order(repeats: int) -> None:
    """Over the border of two epochs, and from the middle."""
    batches = train_batches(numbered(50), DATA, 7, 16, np.arange(16), repeats, num_threads=0)
    host = np.stack([batch["label"] for batch in itertools.islice(batches, 12)])
    records_of = resident.StepRecords(50, seed=7, batch_size=16, repeats=repeats)
    np.testing.assert_array_equal(records_of(0, 12), host)
    np.testing.assert_array_equal(records_of(5, 4), host[5:9])


@pytest.mark.parametrize("side", [8, 13])
def test_the_loaded_set_has_the_host_s_pixels(side: int) -> None:
    """Also of images that are resized."""
    still = dataclasses.replace(DATA, train_crop="resize", flip=0.0, repeats=1)
    whole = resident.load_training(numbered(40, side), DATA)
    batch = next(train_batches(numbered(40, side), still, 3, 40, np.arange(40), num_threads=0))
    np.testing.assert_array_equal(whole["label"], np.arange(40))
    np.testing.assert_array_equal(whole["image"][batch["label"]], batch["image"])


def test_views_equal_the_host_s_for_every_shift_and_flip() -> None:
    crops = dataclasses.replace(DATA, train_crop="pad", crop_padding=2, image_size=8)
    images = np.stack([image_of(number, 8) for number in range(3)])
    draws = list(itertools.product(range(3), range(5), range(5), (False, True)))
    expected = np.empty((len(draws), 8, 8, 3), np.uint8)
    for out, (record, down, right, flip) in zip(expected, draws, strict=True):
        make_view(images[record], View((0, 0, 8, 8), (down, right), flip), crops, out)
    records, down, right, flip = map(np.array, zip(*draws, strict=True))
    views = resident.crop_records(
        jnp.asarray(images), records, np.stack([down, right], 1) - 2, flip
    )
    np.testing.assert_array_equal(views, expected)


def test_views_are_drawn_evenly_by_key_and_position() -> None:
    """An image whose pixels are all different shows its shift and flip."""
    image = np.arange(1, 65, dtype=np.uint8).reshape(1, 8, 8, 1)
    everywhere = np.zeros(6400, np.int32)

    def draw(devices: int, step: int) -> np.ndarray:
        layout = devices_lib.make_layout(jax.devices()[:devices])
        views = jax.jit(
            lambda key, records: resident.views_of_records(
                key, jnp.asarray(image), records, 1, 0.5
            ),
            in_shardings=(layout.replicated, layout.batch),
        )
        return np.asarray(views(jax.random.key(step), everywhere))

    one = draw(1, step=0)
    np.testing.assert_array_equal(one, draw(8, step=0))
    assert (one != draw(1, step=1)).any()
    inner = one[:, 3:5, 3:5, 0].reshape(len(one), 4)
    counts = np.unique(inner, axis=0, return_counts=True)[1]
    assert len(counts) == 18  # nine shifts, flipped or not
    expected = len(one) / 18
    assert np.square(counts - expected).sum() / expected < 40.8  # 17 degrees of freedom, p = 0.001


def test_the_place_is_chosen_by_what_is_possible() -> None:
    splits = numbered(600), numbered(400)  # 1,000 images of 192 bytes

    def place(memory: int | None = 2**30, processes: int = 1, **fields: typing.Any) -> str:
        data = dataclasses.replace(DATA, **{"place": "auto", **fields})
        return resident.choose_place(data, splits, memory, processes).why

    assert place() == "in device memory: 1,000 images, 188 KiB"
    assert place(memory=None).startswith("in device memory")
    assert place(memory=10**6) == (
        "on the host: 1,000 images are 188 KiB, more than 1/8 of the 977 KiB of a device"
    )
    assert place(place="device", memory=10**6).startswith("in device memory")
    assert place(place="host") == "on the host, by data.place"
    assert place(train_crop="random_resized") == "on the host: random resized crops are made there"
    assert place(processes=2) == "on the host: 2 processes train together"
    with pytest.raises(ValueError, match="device is not possible: 1,000 images are 188"):
        place(place="device", memory=10**5)
    with pytest.raises(ValueError, match="crops are made on the host. Take data.pl"):
        place(place="device", train_crop="random_resized")
    with pytest.raises(ValueError, match="data.place 'gpu' is unknown. Allowed are auto,"):
        place(place="gpu")


def test_metrics_of_many_steps_are_logged_step_by_step() -> None:
    lines: list[tuple[int, float]] = []

    def make() -> StepMetrics:
        return StepMetrics(
            lambda step, averages: lines.append((step, averages["loss"])),
            is_due=lambda step: step % 3 == 0,
            images_per_step=2,
            start_step=0,
            unwritten={},
        )

    def metrics(*losses: float) -> dict[str, jax.Array]:
        return {"loss": jnp.asarray([*losses, np.nan]), "grad_norm": jnp.zeros(9)}

    log = make()
    log.add(2, metrics(1.0, 2.0, 50.0), count=2)
    log.add(3, metrics(6.0), count=1)
    log.catch_up(2)
    log.catch_up(3)
    assert lines == [(3, 3.0)]
    log.add(6, metrics(1.0, np.inf, 1.0), count=3)
    with pytest.raises(NonFiniteLossError, match="train/loss is inf at step 5"):
        log.fetch(6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An undisturbed run on one device, with its images there."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(tiny_config(data__place="device"), workdir, jax.devices()[:1])
    return workdir


def test_a_run_never_waits_for_data(whole: pathlib.Path) -> None:
    lines = [line for line in read_metrics(whole / "metrics.jsonl") if "train/loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert all(line["train/data_wait"] == 0 for line in lines)


@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_stopping_in_a_stretch_and_going_on_changes_nothing(
    whole: pathlib.Path, seconds: float, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In stretches of one step or up to the next event; killed first, then asked to stop."""
    monkeypatch.setattr(feed, "_SECONDS_PER_STRETCH", seconds)
    taken: list[int] = []
    take = feed.DeviceFeed.take

    class Killed(BaseException):
        pass

    def killing_take(self: feed.DeviceFeed, state: typing.Any, count: int) -> typing.Any:
        taken.append(count)
        if sum(taken) > 8:  # saved
            raise Killed
        return take(self, state, count)

    def run() -> None:
        # The place is the checkpoint's when a run goes on.
        config = tiny_config(data__place="host" if taken else "device")
        train_and_evaluate(config, tmp_path, jax.devices()[:1])

    with monkeypatch.context() as patch:
        patch.setattr(feed.DeviceFeed, "take", killing_take)
        with pytest.raises(Killed):
            run()
    assert max(taken) == (1 if seconds < 1 else 3)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "reached", lambda self, step: step >= 10)
        with pytest.raises(Stopped, match="Stopped at step"):
            run()
    run()
    assert_same_run(whole, tmp_path)


def test_a_run_that_began_on_the_host_goes_on_there(tmp_path: pathlib.Path) -> None:
    """As those of earlier versions did, whose checkpoints do not say so."""
    device = jax.devices()[:1]
    train_and_evaluate(tiny_config(data__place="host"), tmp_path / "whole", device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "reached", lambda self, step: step >= 5)
        with pytest.raises(Stopped):
            train_and_evaluate(tiny_config(data__place="host"), tmp_path / "stopped", device)
    train_and_evaluate(tiny_config(data__place="auto"), tmp_path / "stopped", device)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_eight_devices_train_as_one() -> None:
    losses, evaluations = [], []
    for devices in (1, 8):
        run = create_experiment(tiny_config(data__place="device"), jax.devices()[:devices])
        assert run.place.on_device
        state, fed = run.draw_state(), feed.make_feed(run, feed.make_program(run), 0)
        fed.compile(state)
        state, metrics = fed.take(state, 5)
        losses.append(np.asarray(metrics["loss"][:5]))
        fed.prepare(5)
        evaluations.append(run.evaluate(state))
    np.testing.assert_allclose(*losses, rtol=2e-5)
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-4)
    # From the device's memory as from the host.
    on_host = run.placed(resident.Place(False, ""))
    assert on_host.evaluate(state) == pytest.approx(evaluations[1], rel=1e-6)


def test_abstract_arguments_are_those_of_a_real_stretch() -> None:
    run = create_experiment(tiny_config(data__place="device"))
    fed = feed.DeviceFeed(run, feed.make_program(run), 0)
    fed._whole = run.device_data.training
    fed.prepare(0)
    real = (run.draw_state(), fed._whole, fed._records, fed._put(np.int32(1)), run.key)
    abstract = feed.abstract_arguments(run)
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.sharding.is_equivalent_to(b.sharding, b.ndim)
