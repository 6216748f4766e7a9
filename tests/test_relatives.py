"""The relatives: what tells them apart, what they equal, and what they refuse."""

import copy
import dataclasses
import functools
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2mlp_jax
from s2mlp_jax.models import Model, relations
from s2mlp_jax.models.mixers.depthwise import depthwise_convolution, shift_as_depthwise
from s2mlp_jax.models.spatial_shift import spatial_shift
from s2mlp_jax.models.variants import VARIANTS, get_variant
from s2mlp_jax.report.__main__ import main as report_main
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.restore import evaluate_workdir
from s2mlp_jax.train.step import make_train_step
from tests.helpers import tiny_config
from tests.test_models import TINY, draw_like, small_model
from tests.test_train import take_steps

# Row of the table -> field of a block, specific over positions, specific over channels.
RELATIONS = {
    "token-mixing MLP (MLP-Mixer)": ("everything (81)", True, False),
    "linear layer over tokens (ResMLP)": ("everything (81)", True, False),
    "depthwise convolution 3x3": ("square of radius 1 (9)", False, True),
    "spatial shift (a)": ("diamond of radius 1 (5)", False, True),
    "spatial shift (b)": ("square of radius 1 (9)", False, True),
    "spatial shift (e)": ("column of radius 1 (3)", False, True),
    "no shift": ("itself (1)", False, False),
    "two shifts, mean (S²-MLPv2)": ("diamond of radius 1 (5)", False, True),
    "two shifts, split attention (S²-MLPv2)": ("everything (81)", False, True),
    "axial shift of 5 (AS-MLP)": ("cross of radius 2 (9)", False, True),
    "permutation, sum (ViP)": ("row and column (17)", True, True),
    "permutation, split attention (ViP)": ("everything (81)", True, True),
    "self-attention (ViT)": ("everything (81)", False, False),
    "partial shift (ShiftViT)": ("diamond of radius 1 (5)", False, True),
    "average pooling 3x3 (PoolFormer)": ("square of radius 1 (9)", False, False),
    "random matrix (RandFormer)": ("everything (81)", True, False),
    "identity": ("itself (1)", False, False),
}


@pytest.mark.parametrize("name", relations.ROWS)
def test_relations(name: str) -> None:
    """Table 1 of the paper: its three rows are the first, the third and the fourth here."""
    found = relations.relate(relations.ROWS[name])
    field = relations.field_name(found.field)
    assert (field, found.spatial_specific, found.channel_specific) == RELATIONS[name]


def test_report_prints_the_relations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    row = "spatial shift (a)"
    monkeypatch.setattr(relations, "ROWS", {row: relations.ROWS[row]})
    assert report_main(["relations"]) == 0
    assert f"| {row} | diamond of radius 1 (5) | the same | specific |" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(4, 6), (1, 5), (1, 1)])
def test_depthwise_convolution_is_that_of_lax(shape: tuple[int, int]) -> None:
    rng = np.random.RandomState(0)
    x = rng.randn(2, *shape, 5).astype(np.float32)
    kernel = rng.randn(3, 3, 5).astype(np.float32)
    for border, mode in (("zero", "constant"), ("keep", "edge"), ("circular", "wrap")):
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode=mode)
        expected = jax.lax.conv_general_dilated(
            padded,
            kernel[:, :, None, :],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )
        np.testing.assert_allclose(depthwise_convolution(x, kernel, border), expected, atol=1e-5)


@pytest.mark.parametrize("border", ["keep", "zero", "circular"])
def test_the_shift_is_a_depthwise_convolution(border: str) -> None:
    """Section 3.3; at the border too, where what lies outside is the nearest token."""
    x = np.random.RandomState(0).randn(2, 5, 4, 10).astype(np.float32)
    kernel = jnp.asarray(shift_as_depthwise("a", 10))
    got = depthwise_convolution(jnp.asarray(x), kernel, border)
    np.testing.assert_array_equal(got, spatial_shift(jnp.asarray(x), "a", border))


def test_depthwise_that_starts_as_the_shift_is_s2mlp() -> None:
    shift = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, **TINY)
    fields = {"mixer": "depthwise", "depthwise_init": "shift", **TINY}
    depthwise = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, **fields)
    variables = s2mlp_jax.init(depthwise, jax.random.key(0), 8)
    images = jnp.asarray(np.random.RandomState(1).randn(2, 8, 8, 3), jnp.float32)
    expected = depthwise.apply(variables, images, train=False)
    for block in ("block_00", "block_01"):
        del variables["params"][block]["mixer"]["kernel"]
    got = shift.apply(variables, images, train=False)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


BOUND = ["mlp_mixer_s16", "resmlp_12", "vip_small_14", "vip_small_7", "deit_ti"]


def shapes_of(model: Model, height: int, width: int) -> jax.ShapeDtypeStruct:
    """Traces a model with the weights of 8x8 pixels on an image of another size."""
    variables = jax.eval_shape(lambda: s2mlp_jax.init(model, jax.random.key(0), 8))
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.apply, train=False), variables, images)


@pytest.mark.parametrize("name", BOUND)
def test_models_that_count_tokens_say_so(name: str) -> None:
    model = small_model(name)
    assert model.variant.bound_to_grid
    for height, width in ((16, 16), (8, 16)):
        with pytest.raises(ValueError, match="bound to the image size that it was made for"):
            shapes_of(model, height, width)


@pytest.mark.parametrize("name", [n for n in VARIANTS if not VARIANTS[n].bound_to_grid])
def test_models_that_do_not_take_any_size(name: str) -> None:
    model = small_model(name)
    for height, width in ((8, 8), (16, 8), (4, 12)):
        assert shapes_of(model, height, width).shape == (1, 3)


def test_initial_values_of_the_relatives() -> None:
    """PyTorch's default where the authors leave it, zeros at Mixer's head, scales by depth."""

    def params(name: str, **fields: typing.Any) -> dict:
        model = s2mlp_jax.create_model(name, num_classes=7, depth=1, **fields)
        return s2mlp_jax.init(model, jax.random.key(0), 16, 3)["params"]

    mixer = params("mlp_mixer_s16", dim=256, patch_size=4)
    assert not mixer["head"]["kernel"].any()
    kernel = mixer["block_00"]["mlp"]["fc_in"]["kernel"]
    assert float(kernel.std()) == pytest.approx(256**-0.5, rel=0.02)
    stages = {"later_depths": (1,), "later_dims": (128,)}
    as_mlp = params("as_mlp_t", dim=64, patch_size=2, **stages)
    for layer, inputs in (("fc_in", 64), ("fc_out", 64)):
        for x in as_mlp["block_00"]["mixer"][layer].values():
            assert inputs**-0.5 * 0.8 < float(jnp.abs(x).max()) <= inputs**-0.5
    assert float(as_mlp["head"]["kernel"].std()) == pytest.approx(0.02, rel=0.1)
    resmlp = params("resmlp_24", dim=64, patch_size=4)
    np.testing.assert_allclose(resmlp["block_00"]["mixer_scale"]["scale"], 1e-5)
    np.testing.assert_allclose(resmlp["block_00"]["mixer_norm"]["scale"], 1.0)
    deit = params("deit_ti", dim=64, patch_size=4)
    assert float(deit["block_00"]["mixer"]["qkv"]["kernel"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(jnp.abs(deit["embed"]["kernel"]).max()) <= 48**-0.5
    assert float(jnp.abs(deit["embed"]["kernel"]).max()) > 0.1


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("deit_ti", {"shift": "e"}, "shift has no effect on .* attention; it is a field of shift"),
        ("s2mlp_wide", {"mixer": "conv"}, "mixer 'conv' is unknown. Allowed are shift, depthwise"),
        ("s2mlp_wide", {"mixer": "pol"}, r"Did you mean 'pool'\? A mixer of your own"),
        ("s2mlp_wide", {"shift_fraction": 0.0}, r"shift_fraction must be in \(0, 1\], got 0.0"),
        ("s2mlp_wide", {"shift_fraction": 0.001}, "1 channels cannot be cut into 4 shift groups"),
        (
            "s2mlp_wide",
            {"mixer": "random", "mixing_seed": -1},
            r"mixing_seed must be in \[0, 2\^32\), got -1",
        ),
        (
            "s2mlp_wide",
            {"skeleton": "cnn"},
            "skeleton 'cnn' is unknown. Allowed are metaformer, resnet",
        ),
        ("resnet_50", {"mixer": "pool"}, "mixer has no effect on a ResNet"),
        (
            "s2mlp_wide",
            {"border": "reflect"},
            "border 'reflect' is unknown. Allowed are keep, zero, circular",
        ),
        ("as_mlp_t", {"border": "keep"}, "Allowed are zero, circular, reflect, replicate"),
        ("s2mlp_v2_small_7", {"branches": "shift1+height"}, "some of shift1, shift2, identity"),
        ("s2mlp_v2_small_7", {"branches": "shift1+shift1"}, "each once"),
        ("vip_small_7", {"segments": 0}, "set segments"),
        ("deit_ti", {"dim": 100}, "head_dim 64 does not divide dim, 100"),
        ("resnet_50", {"patch_size": 2}, "must be 4 .* or 1"),
        ("as_mlp_t", {"later_depths": (2, 2)}, "must be of the same length"),
        ("as_mlp_t", {"later_depths": 2}, "later_depths must be of type tuple"),
        (
            "as_mlp_t",
            {"later_depths": (2, 2, 0)},
            r"later_depths\[2\] must be in \[1, 1000\], got 0",
        ),
        ("as_mlp_t", {"later_depths": (True, 2, 2)}, "must hold integers"),
        ("deit_ti", {"mixer": "shift"}, "class_token makes a row .* not with shift in 1"),
        ("deit_ti", {"later_depths": (1,), "later_dims": (64,)}, "one stage"),
        ("vip_small_14", {"dim": 100}, "16 segments of stage 1 do not divide its 100"),
        ("vip_small_7", {"later_dims": (100,)}, "16 segments of stage 2 do not divide its 100"),
        ("resnet_50", {"position": "learned"}, "position has no effect on a ResNet"),
        ("s2mlp_wide", {"skeleton": "resnet", "patch_size": 4, "layer_scale": 0.1}, "on a ResNet"),
        ("s2mlp_wide", {"affine_init": 1.0}, "no effect but with norm affine and norm_pos.* post"),
        ("resmlp_12", {"affine_init": 1.0}, "no effect but with norm affine and norm_pos.* post"),
        ("s2mlp_deep", {"norm_eps": 1e-6}, "norm_eps has no effect on norm affine"),
        ("s2mlp_wide", {"downsample": "merge"}, "no effect without further stages"),
        ("deit_ti", {"final_norm": 1}, "final_norm must be of type bool"),
        ("s2mlp_wide", {"norm_position": "mid"}, "Allowed are post, pre"),
    ],
)
def test_mistakes(name: str, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_variant(name, **fields)


def test_sizes_of_a_pyramid() -> None:
    with pytest.raises(ValueError, match="image_size 200 is not a multiple of 32, the patch size"):
        s2mlp_jax.count_macs("as_mlp_t", image_size=200)
    model = s2mlp_jax.create_model("as_mlp_t")
    with pytest.raises(ValueError, match="200x224 pixels is not a multiple of 32, the patch size"):
        jax.eval_shape(
            lambda x: model.init(jax.random.key(0), x, train=False), jnp.ones((1, 200, 224, 3))
        )
    with pytest.raises(ValueError, match="set segments to 16, or change image_size"):
        s2mlp_jax.count_macs("vip_small_7", image_size=112)


def test_evaluation_at_another_size_is_refused_where_weights_count_tokens(
    tmp_path: pathlib.Path,
) -> None:
    config = tiny_config(
        model__name="mlp_mixer_s16",
        model__depth=1,
        model__patch_size=2,
        train__steps=1,
        optimizer__warmup_epochs=0.0,
    )
    train_and_evaluate(config, tmp_path)
    assert evaluate_workdir(tmp_path)["eval/count"] == 360
    other = copy.deepcopy(config)
    with other.unlocked():
        other.data.image_size = 16
    with pytest.raises(ValueError, match="image_size 16: this model takes 8 only"):
        evaluate_workdir(tmp_path, config=other)


RESNET = {
    "model__name": "resnet_50",
    "model__depth": 1,
    "model__dim": 8,
    "model__later_depths": (1,),
    "model__later_dims": (16,),
    "model__patch_size": 1,
}


def resnet(devices: int = 1, **overrides: typing.Any) -> Experiment:
    return create_experiment(tiny_config(**RESNET, **overrides), jax.devices()[:devices])


@pytest.mark.parametrize("parts", [1, 2])
def test_batch_norm_takes_and_keeps_the_statistics_of_the_batch(parts: int) -> None:
    """With accumulation those of each part, one after the other."""
    run = resnet(train__accumulation_steps=parts, train__ema_decay=0.5)
    batch = next(run.train_batches(0))
    state = run.draw_state()
    kernel = np.asarray(state.params["conv_stem"]["kernel"])
    images = jnp.asarray((batch["image"] / 255.0 - 0.3) / 0.38, jnp.float32)
    y = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    before = jax.device_get(state.model_state)["batch_stats"]["norm_stem"]
    step = make_train_step(run)
    state, _ = step(state, devices_lib.shard_batch(run.layout, batch), run.key)
    after = jax.device_get(state.model_state)["batch_stats"]["norm_stem"]
    for name, statistic in (("mean", jnp.mean), ("var", jnp.var)):
        expected = before[name]
        for part in range(parts):
            of_part = statistic(y[part::parts], axis=(0, 1, 2))
            expected = 0.9 * expected + 0.1 * np.asarray(of_part)
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5)
    assert state.ema_variables is not None
    averaged = state.ema_variables["batch_stats"]["norm_stem"]
    np.testing.assert_allclose(averaged["mean"], after["mean"], rtol=1e-6)  # of one update


def test_batch_norm_is_over_all_devices() -> None:
    one, eight = take_steps(resnet(), 4), take_steps(resnet(8), 4)
    np.testing.assert_allclose(one[1], eight[1], rtol=1e-5)
    trees = (x[0].model_state for x in (one, eight))
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_evaluation_uses_the_running_statistics() -> None:
    run = resnet()
    state, _ = take_steps(run, 3)
    changed = state.model_state["batch_stats"]["norm_stem"]["mean"] + 3.0
    stats = {**state.model_state["batch_stats"]}
    stats["norm_stem"] = {**stats["norm_stem"], "mean": changed}
    other = state._replace(model_state={"batch_stats": stats})
    a, b = run.evaluate(state), run.evaluate(other)
    assert a["eval/loss"] != b["eval/loss"]
    assert a["eval_ema/loss"] == b["eval_ema/loss"]


def test_resnet_is_a_residual_network_at_first() -> None:
    """The last norm of a block starts at 0, so that a block is its skip."""
    model = small_model("resnet_50")
    variables = s2mlp_jax.init(model, jax.random.key(0), 8)
    images = jnp.asarray(np.random.RandomState(0).randn(2, 8, 8, 3), jnp.float32)
    logits = model.apply(variables, images, train=False)
    for name in ("conv_1", "conv_2"):
        block = variables["params"]["block_00"][name]
        block["kernel"] = draw_like(block["kernel"])
    np.testing.assert_array_equal(model.apply(variables, images, train=False), logits)


def test_named_variants_are_distinct() -> None:
    assert len({dataclasses.astuple(v) for v in VARIANTS.values()}) == len(VARIANTS)
