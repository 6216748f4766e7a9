"""Configs: every one complete and as its golden text has it, every mistake explained."""

import collections
import dataclasses
import json
import os
import pathlib
import re
import typing

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from s2mlp_jax import checks
from s2mlp_jax import config as config_lib
from s2mlp_jax.config import load_config
from s2mlp_jax.options import Options
from s2mlp_jax.train.optim import decay_mask
from tests.helpers import ROOT, tiny_config

# Name of the golden text -> config. The ablations share one recipe at each scale.
CONFIGS = {
    p.stem: f"configs/{p.name}"
    for p in (ROOT / "configs").glob("*.py")
    if p.stem not in ("common", "compare") and not p.stem.startswith("ablation")
}
CONFIGS |= {
    f"ablation_{s}": f"configs/ablation_shift.py:{s}" for s in ("digits", "cifar10", "imagenet100")
}
CONFIGS |= {f"compare_{s}": f"configs/compare.py:{s}" for s in ("cifar10_small", "imagenet")}
GOLDEN = pathlib.Path(__file__).parent / "golden"
CLASSES = {
    "imagenet2012": (1000, 3),
    "imagenet100": (100, 3),
    "digits": (10, 1),
    "cifar10": (10, 3),
    "cifar10_second": (5, 3),
    "folder:images": (1000, 3),
}


def golden_text(name: str) -> str:
    """Every field of a config, and every parameter with shape and decay, blocks folded."""
    config = load_config(str(ROOT / CONFIGS[name]))
    lines = [
        f"{field} = {value!r}" for field, value in config_lib.flatten(config.to_dict()).items()
    ]
    classes, channels = CLASSES[config.data.name]
    model = config_lib.to_options(config).make_model(classes)
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    params = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), images
    )["params"]
    mask = jax.tree.leaves(decay_mask(params))
    folded: dict[str, list[str]] = {}
    for (path, x), decayed in zip(jax.tree.leaves_with_path(params), mask, strict=True):
        full = "/".join(part.key for part in path)
        row = f"{x.dtype}{list(x.shape)} {'decayed' if decayed else 'not decayed'}"
        folded.setdefault(re.sub(r"block_\d+", "block_*", full), []).append(row)
    for path, rows in sorted(folded.items()):  # in a pyramid the shapes are those of the stages
        lines += [f"{path}: {count} x {row}" for row, count in collections.Counter(rows).items()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_golden_text(name: str) -> None:
    """A change of a recipe shows up as a change of its text (UPDATE_GOLDEN=1 rewrites them)."""
    path, text = GOLDEN / f"{name}.txt", golden_text(name)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


def test_no_golden_text_without_config() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(CONFIGS)


def test_every_field_of_the_recipe_has_its_source() -> None:
    lines = (ROOT / "configs/common.py").read_text().splitlines()
    for line in lines:
        if re.match(r"    (data|train|optimizer)\.\w+ = ", line) and "std" not in line:
            assert "#" in line, line


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.shfit", "a", r"no field 'model.shfit'. Allowed there: .*shift"),
        ("modle.shift", "a", r"no field 'modle.shift'. Allowed there: .*model"),
        ("seed.x", 1, "no field 'seed.x'"),
        ("model.depth", "three", "config.model.depth is of type int, got 'three'"),
        ("train.batch_size", 0.5, "config.train.batch_size is of type int, got 0.5"),
        ("model.shift", "k", "Unknown shift pattern 'k'"),
        ("model.name", "s2mlp", "Allowed are s2mlp_wide"),
        ("data.image_size", 9, "data.image_size 9 is not a multiple of 2, the patch size"),
        ("data.train_crop", "x", "Allowed are random_resized, pad, resize"),
        ("data.interpolation", "x", "Allowed are bicubic, bilinear, nearest"),
        ("data.crop_area_min", 0.0, r"data.crop_area_min must be in \(0, 1\]"),
        ("data.flip", 1.5, r"data.flip must be in \[0, 1\]"),
        ("data.std", (1.0, 1.0), "differ in length"),
        ("train.dtype", "float16", "Allowed are float32, bfloat16"),
        ("train.accumulation_steps", 3, "3 does not divide train.batch_size 16"),
        ("train.batch_size", 0, r"train.batch_size must be in \[1, 2\^20\], got 0"),
        ("train.label_smoothing", 1.0, r"must be in \[0, 1\)"),
        ("log.every_steps", 0, r"log.every_steps must be in \[1, 2\^31\)"),
        ("data.std", (0.0,), r"data.std\[0\] must be in \[0.001, 1000\], got 0.0"),
        ("seed", -1, r"seed must be in \[0, 2\^32\)"),
    ],
)
def test_mistakes_name_the_field_and_what_is_allowed(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**{field.replace(".", "__"): value})


def test_a_config_may_take_another_variant_and_still_override_fields() -> None:
    config = tiny_config(model__name="s2mlp_deep", model__depth=3, model__patch_size=2)
    assert (config.model.norm, config.model.depth, config.model.dim) == ("affine", 3, 16)


def test_no_such_file() -> None:
    with pytest.raises(ValueError, match="no file configs/nope.py"):
        load_config("configs/nope.py")


def test_differences_ignore_what_changes_no_number() -> None:
    config = tiny_config()
    saved = json.loads(config_lib.to_json(config))
    assert config_lib.differences(saved, config) == []
    free = tiny_config(data__num_threads=7, checkpoint__keep=9, data__data_dir="/x")
    assert config_lib.differences(saved, free) == []
    other = tiny_config(model__shift="e", seed=3)
    assert config_lib.differences(saved, other) == [
        "model.shift: 'a' there, 'e' here",
        "seed: 0 there, 3 here",
    ]


@pytest.mark.parametrize("name", ["s2mlp_wide", "s2mlp_digits", "finetune"])
def test_options_hold_what_the_config_holds(name: str) -> None:
    """Every field of every group, of the type that its dataclass declares."""
    config = load_config(str(ROOT / CONFIGS[name]))
    options = config_lib.to_options(config)
    flat = config_lib.flatten(config.to_dict())
    seen = {f"model.{field}" for field in flat if field.startswith("model.")}
    for field, kind in typing.get_type_hints(Options).items():
        value = getattr(options, field)
        if field == "model":
            found = {"model.name": value.name}
            found |= {f"model.{key}": x for key, x in value.variant.fields().items()}
        elif dataclasses.is_dataclass(kind):
            found = {f"{field}.{key}": x for key, x in vars(value).items()}
            for key, declared in typing.get_type_hints(kind).items():
                assert type(getattr(value, key)) is (typing.get_origin(declared) or declared), key
        else:
            found = {field: value}
        for key, x in found.items():
            assert flat[key] == (list(x) if isinstance(x, tuple) else x), key
        seen |= found.keys()
    assert seen >= flat.keys()


def test_a_config_made_without_types_is_checked() -> None:
    """As it is read from a file that was edited by hand."""
    plain = tiny_config().to_dict()
    whole = config_lib.to_options(ml_collections.ConfigDict(plain | {"seed": 3}))
    assert whole.seed == 3
    plain["train"]["epochs"] = 5
    assert type(config_lib.to_options(ml_collections.ConfigDict(plain)).train.epochs) is float
    for field, value, message in (
        ("batch_size", "16", "config.train.batch_size is of type int, got '16'"),
        ("batch_size", True, "config.train.batch_size is of type int, got True"),
        ("remat", 1, "config.train.remat is of type bool, got 1"),
    ):
        changed = plain | {"train": plain["train"] | {field: value}}
        with pytest.raises(ValueError, match=message):
            config_lib.to_options(ml_collections.ConfigDict(changed))
    changed = plain | {"data": plain["data"] | {"mean": ("x",)}}
    with pytest.raises(
        ValueError, match=r"config.data.mean is of type tuple of numbers, got \('x',\)"
    ):
        config_lib.to_options(ml_collections.ConfigDict(changed))
    del plain["train"]["remat"]
    with pytest.raises(ValueError, match="no train.remat: it is of an earlier version"):
        config_lib.to_options(ml_collections.ConfigDict(plain))


def test_options_are_frozen_and_hashable() -> None:
    options = config_lib.to_options(tiny_config())
    assert hash(options.data) == hash(config_lib.to_options(tiny_config()).data)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.train.batch_size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (-0.1, 1, float("nan"))),
        ("(0, 1]", (1, 0.5), (0, 1.1)),
        ("[0, 2^32)", (0, 2**32 - 1), (-1, 2**32)),
        ("[1e-6, 1e6]", (1e-6, 1e6), (0, float("inf"), float("nan"))),
    ],
)
def test_intervals(interval: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    for value in inside:
        assert checks.Range(interval).wrong(value) == ""
    for value in outside:
        assert checks.Range(interval).wrong(value) == f"must be in {interval}, got {value}."


def test_explains_command_line_mistakes() -> None:
    argv = ["main.py", f"--config={ROOT}/configs/s2mlp_digits.py", "--config.model.shfit=e"]
    assert "Allowed there: " in config_lib.explain_flags(argv, AttributeError("x"))
    assert config_lib.explain_flags(["main.py"], KeyError("culprit")) == "culprit"
    argv = ["main.py", f"--config={ROOT}/configs/mlp_mixer.py:b8"]
    told = config_lib.explain_flags(argv, AttributeError("x"))
    assert told == "Unknown variant 'b8'. Allowed are s32, s16, b32, b16, l16."


def test_configs_of_earlier_versions_are_the_same_runs() -> None:
    """Version 0.2 had not all fields of the model, and called a ResNet a mixer, "bottleneck"."""
    config = tiny_config()
    earlier = config.to_dict()
    for field in ("skeleton", "shift_fraction", "mixing_seed"):
        del earlier["model"][field]
    assert config_lib.complete(ml_collections.ConfigDict(earlier)).model == config.model
    assert config_lib.differences(earlier, config) == []
    resnet = tiny_config(model__name="resnet_50", model__patch_size=1)
    earlier = resnet.to_dict()
    earlier["model"]["mixer"] = "bottleneck"
    del earlier["model"]["skeleton"]
    assert config_lib.complete(ml_collections.ConfigDict(earlier)).model == resnet.model
    assert config_lib.differences(earlier, resnet) == []


def test_a_typo_inside_a_config_file_is_an_error(tmp_path: pathlib.Path) -> None:
    for line in ("config.optimizer.warmup_epoch = 1.0", "config.model.dephth = 3"):
        path = tmp_path / "typo.py"
        text = (ROOT / "configs/s2mlp_digits.py").read_text()
        path.write_text(text.replace("    return config", f"    {line}\n    return config"))
        with pytest.raises((AttributeError, KeyError), match=line.split()[0].split(".")[-1]):
            load_config(str(path))


def test_config_stays_locked() -> None:
    with pytest.raises((AttributeError, KeyError)):
        tiny_config().model.shfit = "a"
    assert isinstance(tiny_config(), ml_collections.ConfigDict)


def test_override_leaves_the_config_it_was_given() -> None:
    config = load_config(str(ROOT / "configs/s2mlp_digits.py"))
    before = config_lib.to_json(config)
    changed = config_lib.override(config, {"train.batch_size": 32, "model.shift": "e"})
    assert (changed.train.batch_size, changed.model.shift) == (32, "e")
    assert config_lib.to_json(config) == before
