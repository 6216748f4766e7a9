"""Runs that start from a model: its weights, a new head, what is frozen, and layer-wise rates."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from s2mlp_jax.config import load_config
from s2mlp_jax.data.digits import load_digits
from s2mlp_jax.export import __main__ as export
from s2mlp_jax.saved import pretrained
from s2mlp_jax.saved.arrays import flatten
from s2mlp_jax.train import optim, train_and_evaluate
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.restore import evaluate_workdir
from tests.helpers import ROOT, assert_same_run, read_state, tiny_config


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of some steps, whose average differs from its last weights."""
    folder = tmp_path_factory.mktemp("finetune") / "source"
    config = tiny_config(train__ema_decay=0.5, train__steps=4, optimizer__learning_rate=0.01)
    train_and_evaluate(config, folder, jax.devices()[:1])
    return folder


@pytest.fixture(scope="module")
def other_classes(source: pathlib.Path) -> str:
    """A folder of digits, of which three are other classes than the source's."""
    folder = source.parent / "letters"
    images, labels = load_digits()
    for part in ("train", "val"):
        for label in range(3):
            (folder / part / "abc"[label]).mkdir(parents=True)
            for i in np.flatnonzero(labels == label)[:16]:
                path = folder / part / "abc"[label] / f"{i}.png"
                Image.fromarray(images[i, ..., 0]).save(path)
    return f"folder:{folder}"


def start_of(**overrides: object) -> dict[str, np.ndarray]:
    run = create_experiment(tiny_config(**overrides), jax.devices()[:1])
    return flatten(jax.device_get(run.draw_state().variables))


def test_a_run_starts_from_the_weights_that_a_model_is_judged_by(source: pathlib.Path) -> None:
    state = read_state(source)
    for name, array in start_of(init_from=str(source), seed=5).items():
        np.testing.assert_array_equal(array, state[f"/ema_{name}"])


def test_other_classes_get_a_new_head(
    source: pathlib.Path, other_classes: str, capsys: pytest.CaptureFixture, tmp_path: pathlib.Path
) -> None:
    fields = {"data__name": other_classes, "data__eval_split": "val", "init_from": str(source)}
    start, state = start_of(**fields), read_state(source)
    drawn = start_of(**{**fields, "init_from": ""})
    for name, array in start.items():
        expected = drawn[name] if "/head/" in name else state[f"/ema_{name}"]
        np.testing.assert_array_equal(array, expected)
    assert start["params/head/kernel"].shape == (16, 3)
    train_and_evaluate(tiny_config(**fields, train__steps=2), tmp_path, jax.devices()[:1])
    said = capsys.readouterr().out
    assert f"weights   {source}: 28 arrays" in said
    assert "a new head for 3 other classes (there: 10)" in said
    # What is exported does not say where things lie on this machine.
    training = pretrained.read(tmp_path).training
    assert training["recipe"]["init_from"] == "source"
    assert str(source.parent) not in json.dumps(training)


def test_the_same_number_of_other_classes_is_not_the_same_head(
    source: pathlib.Path, other_classes: str, tmp_path: pathlib.Path
) -> None:
    fields = {"data__name": other_classes, "data__eval_split": "val"}
    config = tiny_config(**fields, train__steps=1, optimizer__warmup_epochs=0.0)
    train_and_evaluate(config, tmp_path, jax.devices()[:1])
    model = tmp_path / "model"
    assert export.main([str(tmp_path), str(model)]) == 0
    names = model / "class_names.json"
    kept = start_of(**fields, init_from=str(model), seed=9)
    names.write_text(names.read_text().replace("a", "d"))
    drawn = start_of(**fields, init_from=str(model), seed=9)
    assert np.any(kept["params/head/kernel"] != drawn["params/head/kernel"])
    np.testing.assert_array_equal(kept["params/embed/kernel"], drawn["params/embed/kernel"])


def test_a_continued_run_is_the_same_and_does_not_need_the_model(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model = tmp_path / "model"
    assert export.main([str(source), str(model)]) == 0
    fields = {"freeze": "embed*, block_00", "checkpoint__every_epochs": 0.04}
    config = tiny_config(init_from=str(model), train__steps=6, **fields)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_and_evaluate(config, whole, jax.devices()[:1])
    shutil.copytree(whole, cut)
    first, *later = sorted((cut / "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert 0 < int(first.name) < 6
    for folder in (*later, model):  # as if it had been killed
        shutil.rmtree(folder)
    train_and_evaluate(config, cut, jax.devices()[:1])
    assert_same_run(whole, cut)


def test_another_image_size_suits_what_does_not_count_tokens(source: pathlib.Path) -> None:
    state = read_state(source)
    for name, array in start_of(init_from=str(source), data__image_size=16).items():
        np.testing.assert_array_equal(array, state[f"/ema_{name}"])


def test_another_image_size_is_refused_where_weights_count_tokens(tmp_path: pathlib.Path) -> None:
    fields = {"model__mixer": "token_mlp", "train__steps": 1, "optimizer__warmup_epochs": 0.0}
    train_and_evaluate(tiny_config(**fields), tmp_path / "mlp", jax.devices()[:1])
    with pytest.raises(ValueError, match="init_from .*image_size 16: this model takes 8 only"):
        start_of(**fields, init_from=str(tmp_path / "mlp"), data__image_size=16)


def test_what_does_not_fit_is_told_at_once_and_leaves_no_folder(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tiny_config(init_from=str(source), model__depth=3, model__dim=24)
    with pytest.raises(ValueError) as caught:
        train_and_evaluate(config, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(f"init_from {source}: The weights are not those of the model.")
    assert "12 missing" in message
    assert "params/embed/kernel: 4x16 there, 4x24 expected" in message
    assert not (tmp_path / "run").exists()
    config = tiny_config(init_from=str(tmp_path / "no"))
    with pytest.raises(ValueError, match="init_from: There is no file"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changed_data_are_refused(other_classes: str, tmp_path: pathlib.Path) -> None:
    """Or a class that was renamed would shift the labels of a run that goes on."""
    folder = tmp_path / "data"
    shutil.copytree(other_classes.removeprefix("folder:"), folder)
    fields = {"data__name": f"folder:{folder}", "data__eval_split": "val"}
    config = tiny_config(**fields, train__steps=2, optimizer__warmup_epochs=0.0)
    train_and_evaluate(config, tmp_path / "run", jax.devices()[:1])
    before = (tmp_path / "run/data.json").read_text()
    for part in ("train", "val"):
        (folder / part / "a").rename(folder / part / "z")
    with pytest.raises(ValueError, match=r"run on other data:\n  class_names: \['a', 'b', 'c'\]"):
        train_and_evaluate(config, tmp_path / "run", jax.devices()[:1])
    assert (tmp_path / "run/data.json").read_text() == before


def test_a_run_of_version_0_1_goes_on(tmp_path: pathlib.Path) -> None:
    config = tiny_config(train__steps=2, optimizer__warmup_epochs=0.0)
    train_and_evaluate(config, tmp_path, jax.devices()[:1])
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["data"]["rotate"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    (tmp_path / "data.json").unlink()
    assert evaluate_workdir(tmp_path)["eval/count"] == 360
    train_and_evaluate(config, tmp_path, jax.devices()[:1])


def test_a_pattern_of_another_shift_is_told(source: pathlib.Path) -> None:
    config = tiny_config(init_from=str(source), model__shift="e")
    told = create_experiment(config).initial_weights().notes  # type: ignore[union-attr]
    assert told[-1] == "differs from the initial model: model.shift was 'a', is 'e'"


def test_another_normalisation_is_told(source: pathlib.Path) -> None:
    config = tiny_config(init_from=str(source), data__mean=(0.5,), data__image_size=16)
    told = create_experiment(config, jax.devices()[:1]).initial_weights().notes  # type: ignore[union-attr]
    assert told[-2:] == [
        "differs from the initial model: data.image_size was 8, is 16",
        "differs from the initial model: data.mean was (0.3,), is (0.5,)",
    ]


def test_frozen_parameters_stay_and_the_optimizer_keeps_nothing_of_them(
    tmp_path: pathlib.Path,
) -> None:
    fields = {"freeze": "embed*, block_0?/mixer", "train__ema_decay": 0.0}
    before = start_of(**fields)
    config = tiny_config(**fields, train__steps=4, optimizer__weight_decay=0.5)
    train_and_evaluate(config, tmp_path, jax.devices()[:1])
    state = read_state(tmp_path)
    stays = {name for name, x in before.items() if np.array_equal(x, state[f"/{name}"])}
    frozen = {name for name in before if name.startswith("params/embed") or "/mixer/" in name}
    assert stays == frozen
    moments = [name for name in state if "/mu/" in name or name.endswith("mu")]
    assert len(moments) == len(before) - len(frozen)


def test_frozen_parameters_have_no_gradient() -> None:
    norms = []
    for freeze in ("", "embed*, block_*"):
        run = create_experiment(tiny_config(freeze=freeze), jax.devices()[:1])
        params = run.draw_state().params
        cut = jax.grad(
            lambda p, patterns=freeze: sum(
                (x**2).sum() for x in jax.tree.leaves(optim.stop_gradients(patterns, p))
            )
        )(params)
        norms.append({k: float(abs(v).max()) for k, v in flatten(cut).items()})
    assert all(norms[0][name] > 0 for name in norms[0] if name.endswith("kernel"))
    assert {name for name, x in norms[1].items() if x > 0} <= {"head/kernel", "head/bias"}
    assert norms[1]["head/kernel"] > 0


def test_mistaken_patterns_are_told_at_once(tmp_path: pathlib.Path) -> None:
    config = tiny_config(freeze="embd*, block_7, head")
    with pytest.raises(ValueError, match=r"matches 'embd\*', 'block_7'. There are block_\*/mixer"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"'\*' leaves nothing to train"):
        create_experiment(tiny_config(freeze="*"))
    with pytest.raises(ValueError, match=r"optimizer.layer_decay must be in \(0, 1\]"):
        tiny_config(optimizer__layer_decay=1.5)


def test_layer_scales_count_from_the_head() -> None:
    fields = {
        "model__name": "s2mlp_v2_small_7",
        "model__depth": 2,
        "model__later_depths": (1,),
        "model__later_dims": (32,),
        "model__patch_size": 2,
        "model__final_norm": True,
    }
    config = tiny_config(**fields)
    params = create_experiment(config).abstract_state().params
    scales = flatten(optim.layer_scales(0.5, (2, 1), params))
    by_part = {name.split("/")[0]: float(x) for name, x in scales.items()}
    assert by_part == {
        "embed": 1 / 16,
        "block_00": 1 / 8,
        "block_01": 1 / 4,
        "downsample_1": 1 / 2,
        "block_02": 1 / 2,
        "final_norm": 1.0,
        "head": 1.0,
    }


def test_layer_decay_scales_the_whole_update() -> None:
    """That of the weight decay too, as another learning rate would."""
    updates = []
    for decay in (1.0, 0.5):
        config = tiny_config(optimizer__layer_decay=decay, optimizer__weight_decay=0.3)
        run = create_experiment(config, jax.devices()[:1])
        params = run.draw_state().params
        params = jax.tree.map(lambda x: x + 0.1, params)
        state = run.optimizer.init(params)
        update, _ = run.optimizer.update(params, state, params)
        updates.append(flatten(update))
    factors = {"embed": 1 / 8, "block_00": 1 / 4, "block_01": 1 / 2, "head": 1.0}
    for name, plain in updates[0].items():
        if (part := name.split("/")[0]) in factors:
            np.testing.assert_allclose(updates[1][name], factors[part] * plain, rtol=1e-5)


def test_the_recipe_takes_the_model_from_its_folder(
    source: pathlib.Path, other_classes: str, tmp_path: pathlib.Path
) -> None:
    config = load_config(str(ROOT / f"configs/finetune.py:{source}"))
    assert (config.model.dim, config.model.depth, config.data.image_size) == (16, 2, 8)
    assert (config.data.mean, config.data.channels) == ((0.3,), 1)
    command = [
        sys.executable,
        "main.py",
        f"--config=configs/finetune.py:{source}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.name={other_classes}",
        "--config.train.batch_size=16",
        "--config.train.epochs=2.0",
        "--config.data.decoder=pillow",
        "--config.augment.randaugment_ops=0",
        "--config.freeze=embed*,block_*",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "a new head for 3 other classes" in done.stdout
    assert "3 classes, read grey, from " in done.stdout
    assert "frozen: " in done.stdout
    command[2] = "--config=configs/finetune.py:/no/model"
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"Error: There is no folder /no/model; .* is expected\.\n", done.stderr)
