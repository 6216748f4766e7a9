"""Checkpoints: what is kept, what is passed over, what is refused; and the run's folder."""

import gc
import json
import pathlib
import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from PIL import Image

import s2mlp_jax
from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.disk_faults import DamagedError
from s2mlp_jax.saved.metrics import MetricsWriter, read_metrics
from s2mlp_jax.saved.run_folder import RunFolder
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train import feed, train_and_evaluate
from s2mlp_jax.train.restore import evaluate_workdir
from tests.helpers import assert_same_run, read_lines, read_state, tiny_config

# A restore that fails leaves a future behind in Orbax whose error nobody reads. When it is
# collected, at some later moment, Python reports that; it is not ours to fail on.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect_what_failed_restores_leave() -> Iterator[None]:
    yield
    gc.collect()


def a_state(value: float, width: int = 3) -> dict:
    layout = devices_lib.make_layout()
    return devices_lib.replicate(
        layout, {"w": jnp.full((2, width), value), "count": jnp.asarray(7), "none": None}
    )


def shapes(state: dict) -> dict:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def test_keeps_the_last_and_the_best(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    scores = [0.1, 0.9, None, 0.5, None, 0.9, 0.2, None]
    for step, score in enumerate(scores, start=1):
        checkpoints.save(step, a_state(step), {"step": step}, score)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=2)  # the scores are on disk
    assert checkpoints.steps() == [6, 7, 8]
    assert checkpoints.best_step() == 6
    state, record = checkpoints.restore(6, shapes(a_state(0)))
    np.testing.assert_array_equal(state["w"], np.full((2, 3), 6.0))
    assert record == {"step": 6}


def test_a_save_cut_short_is_passed_over(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(3, a_state(3), {"step": 3})
    checkpoints.close()
    whole = tmp_path / "checkpoints" / "3"
    shutil.copytree(whole, tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.restore_latest(shapes(a_state(0)))[1] == {"step": 3}  # type: ignore[index]
    assert "Checkpoint 5 was cut short" in capsys.readouterr().out
    # It is cleared away in the background, at the latest before the next is saved.
    checkpoints.save(7, a_state(7), {"step": 7})
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "7"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "metadata"])
def test_a_broken_checkpoint_is_moved_aside_for_the_one_before(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture, damage: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (2, 4):
        checkpoints.save(step, a_state(step), {"step": step})
    checkpoints.close()
    files = "_METADATA" if damage == "metadata" else "d/*"
    for file in (tmp_path / "checkpoints" / "4" / "state").rglob(files):
        if damage == "truncate":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            file.unlink()
    checkpoints = Checkpoints(tmp_path, keep=3)
    state, record = checkpoints.restore_latest(shapes(a_state(0)))  # type: ignore[misc]
    assert record == {"step": 2}
    np.testing.assert_array_equal(state["w"], np.full((2, 3), 2.0))
    assert "4 in " in (out := capsys.readouterr().out)
    assert "is damaged" in out
    assert (tmp_path / "broken_checkpoints" / "4" / "state").exists()
    checkpoints.save(4, a_state(4), {"step": 4})  # the step is free again
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [2, 4]


def test_when_no_checkpoint_can_be_read_all_stay_as_they_are(tmp_path: pathlib.Path) -> None:
    """It may be the disk's or the device's passing fault; the run must not start afresh."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (2, 4):
        checkpoints.save(step, a_state(step), {"step": step})
    checkpoints.close()
    for file in (tmp_path / "checkpoints").rglob("_METADATA"):
        file.unlink()
    checkpoints = Checkpoints(tmp_path, keep=3)
    with pytest.raises(
        DamagedError, match=r"No checkpoint in .* can be read. Checkpoint 4 in .* Checkpoint 2 in "
    ):
        checkpoints.restore_latest(shapes(a_state(0)))
    assert checkpoints.steps() == [2, 4]


def bytes_read() -> int:
    """Returns what TensorStore, which Orbax reads with, has read from files until now."""
    name = "/tensorstore/kvstore/file/bytes_read"
    return sum(
        value["value"]
        for metric in tensorstore.experimental_collect_matching_metrics(name)
        for value in metric["values"]
    )


def test_a_model_is_read_without_its_optimizer_data_and_devices(tmp_path: pathlib.Path) -> None:
    """Of a run whose state was cut over eight devices, on data that are gone."""
    data = tmp_path / "images"
    for part in ("train", "val"):
        for name in ("a", "b"):
            (data / part / name).mkdir(parents=True)
            for i in range(16):
                pixels = np.full((8, 8), 16 * i, np.uint8)
                Image.fromarray(pixels).save(data / part / name / f"{i}.png")
    fields = {"data__name": f"folder:{data}", "data__eval_split": "val", "data__channels": 1}
    config = tiny_config(
        **fields,
        model__dim=64,
        train__shard_state=True,
        train__steps=3,
        optimizer__warmup_epochs=0.0,
    )
    workdir = tmp_path / "run"
    train_and_evaluate(config, workdir)
    state = read_state(workdir)
    shutil.rmtree(data)

    before = bytes_read()
    averaged = s2mlp_jax.load(workdir)
    size = sum(x.nbytes for x in jax.tree.leaves(averaged.variables))
    # The state is these, the last weights and two moments of each: four times as much.
    assert size < bytes_read() - before < 1.5 * size
    last = s2mlp_jax.load(workdir, weights="last")
    assert averaged.class_names == ("a", "b")
    for loaded, name in ((averaged, "ema_params"), (last, "params")):
        for path, x in jax.tree.leaves_with_path(loaded.variables["params"]):
            assert type(x) is np.ndarray
            saved = state[f"/{name}/" + "/".join(part.key for part in path)]
            np.testing.assert_array_equal(x, saved)
    with pytest.raises(ValueError, match="There is no checkpoint '7' .*latest, best, 1, 2, 3"):
        s2mlp_jax.load(workdir, checkpoint="7")
    (workdir / "data.json").write_text("")
    with pytest.raises(
        ValueError, match=r"data.json cannot be read: .* It describes the run's data"
    ):
        s2mlp_jax.load(workdir)


def test_statistics_are_read_with_the_weights(tmp_path: pathlib.Path) -> None:
    """Batch norms' running ones, and their average beside that of the weights."""
    fields = {"model__name": "resnet_50", "model__patch_size": 1, "model__drop_path": 0.0}
    stages = {"model__later_depths": (), "model__later_dims": ()}
    config = tiny_config(
        **fields,
        **stages,
        model__depth=1,
        model__dim=8,
        train__steps=2,
        optimizer__warmup_epochs=0.0,
    )
    train_and_evaluate(config, tmp_path, jax.devices()[:1])
    state = read_state(tmp_path)
    for weights, prefix in (("average", "ema_"), ("last", "")):
        loaded = s2mlp_jax.load(tmp_path, weights=weights)
        mean = loaded.variables["batch_stats"]["norm_stem"]["mean"]
        saved = state[f"/{prefix}model_state/batch_stats/norm_stem/mean"]
        np.testing.assert_array_equal(mean, saved)


def test_another_model_is_refused_and_nothing_is_lost(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, a_state(1), {"step": 1})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(
        ValueError, match=r"another model. 1 arrays differ.*w: \(2, 3\) there, \(2, 4\) here"
    ):
        checkpoints.restore_latest(shapes(a_state(0, width=4)))
    assert checkpoints.steps() == [1]


def test_async_save_is_not_disturbed_by_donation(tmp_path: pathlib.Path) -> None:
    """The next step overwrites the state's memory while the files are being written."""
    checkpoints = Checkpoints(tmp_path)
    state = {"w": jnp.arange(4_000_000, dtype=jnp.float32)}
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    like = shapes(state)
    checkpoints.save(1, state, {"step": 1})
    for _ in range(5):
        state = overwrite(state)
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path).restore(1, like)
    np.testing.assert_array_equal(restored["w"], np.arange(4_000_000))


def test_stopping_and_going_on_changes_nothing(tmp_path: pathlib.Path) -> None:
    """Stopped in the middle of a logging interval, between checkpoints, by an exception."""
    config = tiny_config(checkpoint__every_epochs=0.04)
    train_and_evaluate(config, tmp_path / "whole", jax.devices()[:1])

    class Killed(BaseException):
        pass

    original = feed.make_train_step
    for stop_at in (5, 10):

        def make_killing_step(*args, stop_at: int = stop_at):  # noqa: ANN002, ANN202
            jitted = original(*args)

            class Wrapped:
                def lower(self, *arguments):  # noqa: ANN002, ANN202
                    compiled = jitted.lower(*arguments).compile()

                    def step(state, batch, key):  # noqa: ANN001, ANN202
                        if int(jax.device_get(state.step)) == stop_at:
                            raise Killed
                        return compiled(state, batch, key)

                    return type("Compiled", (), {"compile": staticmethod(lambda: step)})

            return Wrapped()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feed, "make_train_step", make_killing_step)
            with pytest.raises(Killed):
                train_and_evaluate(config, tmp_path / "stopped", jax.devices()[:1])
    train_and_evaluate(config, tmp_path / "stopped", jax.devices()[:1])
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_workdir_holds_what_it_should(tmp_path: pathlib.Path) -> None:
    config = tiny_config()
    last = train_and_evaluate(config, tmp_path)
    lines = read_lines(tmp_path)
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == [3, 6, 9, 12]
    assert {"train/learning_rate", "train/grad_norm", "train/epoch"} <= lines[0].keys()
    evaluations = [line for line in lines if "eval/loss" in line]
    assert evaluations[-1] == {"step": 12, **last}
    assert {f"eval/{n}" for n in ("accuracy_top1", "accuracy_top5", "loss", "count")} <= last.keys()
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["devices"] == ["cpu:cpu"] * 8
    assert len(environment["git_commit"]) >= 7
    assert json.loads((tmp_path / "config.json").read_text())["model"]["depth"] == 2
    assert len(list((tmp_path / "checkpoints").iterdir())) <= config.checkpoint.keep + 1
    # Once more: nothing to do, and nothing is changed.
    before = (tmp_path / "metrics.jsonl").read_text()
    assert train_and_evaluate(config, tmp_path) == last
    assert (tmp_path / "metrics.jsonl").read_text() == before
    # Evaluation alone gives the same; and it takes another image size.
    assert evaluate_workdir(tmp_path) == last
    bigger = tiny_config(data__image_size=16, train__ema_decay=0.0, train__batch_size=18)
    assert evaluate_workdir(tmp_path, "best", bigger)["eval/count"] == 360
    noted = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert [line["image_size"] for line in noted] == [8, 16]
    with pytest.raises(ValueError, match="no checkpoint '77'.*latest, best, .*12"):
        evaluate_workdir(tmp_path, "77")
    with pytest.raises(ValueError, match="holds another model: model.shift: 'a' there, 'e' here"):
        evaluate_workdir(tmp_path, "latest", tiny_config(model__shift="e"))
    # A run of another config is refused, and told how it differs.
    with pytest.raises(ValueError, match="another config:\n  model.shift: 'a' there, 'e' here"):
        train_and_evaluate(tiny_config(model__shift="e"), tmp_path)
    with pytest.raises(ValueError, match="no folder .*elsewhere; the folder of a run is"):
        RunFolder(tmp_path / "elsewhere").read_config()


def test_metrics_of_steps_to_be_done_again_are_dropped(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a"'
    )
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    writer = MetricsWriter(tmp_path, resume_step=2, tensorboard=False)
    writer.write(3, {"a": 33})
    writer.sync()
    writer.close()
    assert [line["a"] for line in read_metrics(path)] == [1, 2, 33]
