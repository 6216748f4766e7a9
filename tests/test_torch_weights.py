"""Our weights by timm's names and back, and everything that can be wrong with them."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2mlp_jax
from s2mlp_jax.export import torch_weights
from s2mlp_jax.models import get_variant
from s2mlp_jax.saved.arrays import flatten
from tests.test_parity import TIMM, draw, read, timm_model


def same(a: typing.Mapping[str, np.ndarray], b: typing.Mapping[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value.dtype == b[name].dtype
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.parametrize("family", TIMM)
def test_timm_and_back(family: str) -> None:
    model, variables = timm_model(family)
    state = read(family, "state")
    same(torch_weights.to_torch(model.variant, variables), state)
    counted = state | {"bn1.num_batches_tracked": np.int64(7)}  # which is no weight
    same(
        flatten(torch_weights.from_torch(model.variant, counted)),
        flatten(variables),
    )
    images = read(family, "")["images"]
    with jax.default_matmul_precision("highest"):
        logits = model.apply(variables, jnp.asarray(images), train=False)
    expected = read(family, "output")["logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", TIMM)
def test_ours_and_back(family: str) -> None:
    """Every one of our weights has a name there, for other numbers of channels and classes too."""
    name, fields = TIMM[family]
    model = s2mlp_jax.create_model(name, num_classes=5, **fields)
    variables = draw(
        jax.eval_shape(lambda key: s2mlp_jax.init(model, key, 4, channels=1), jax.random.key(0))
    )
    state = torch_weights.to_torch(model.variant, variables)
    again = torch_weights.from_torch(model.variant, state, num_classes=5, image_size=4)
    same(flatten(again), flatten(variables))


def test_all_that_is_wrong_is_said_at_once() -> None:
    state = read("deit", "state")
    state["more.weight"] = state.pop("cls_token")
    state["blocks.2.norm1.bias"] = state.pop("blocks.1.norm1.bias")
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"][:24]
    state["head.bias"] = state["head.bias"][:2]
    state["norm.weight"] = state["norm.weight"][None]
    name, fields = TIMM["deit"]
    with pytest.raises(ValueError, match="not those of the model") as error:
        torch_weights.from_torch(get_variant(name, **fields), state)
    assert str(error.value).splitlines()[1:] == [
        "2 missing:",
        "  cls_token",
        "  blocks.1.norm1.bias",
        "2 not expected:",
        "  more.weight",
        "  blocks.2.norm1.bias",
        "3 misfits:",
        "  blocks.0.attn.qkv.weight: 24x12 there, 36x12 expected",
        "  norm.weight: 1x12 there, 12 expected",
        "  head.bias: 2 there, 3 expected",
    ]


def test_ours_are_checked_as_well() -> None:
    model, variables = timm_model("mlp_mixer")
    params = dict(variables["params"])
    params["embed"] = {"kernel": np.zeros((13, 12)), "bias": params["embed"]["bias"]}
    params["top"] = params.pop("head")
    with pytest.raises(ValueError, match="params/head/kernel\n") as error:
        torch_weights.to_torch(model.variant, {"params": params})
    assert "params/top/kernel" in str(error.value)
    assert "params/embed/kernel: 13x12 there, channelsx12 expected" in str(error.value)


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        ("mlp_mixer", {"num_classes": 10}, "head.weight: 3x12 there, 10x12 expected"),
        ("resmlp", {"image_size": 16}, r"linear_tokens.weight: 16x16 there, 64x64 expected"),
        ("deit", {"image_size": 8}, "pos_embed: 1x25x12 there, 1x17x12 expected"),
        ("deit", {"image_size": 9}, "image_size 9 is not a multiple of 2"),
    ],
)
def test_sizes_that_are_given_must_fit(family: str, sizes: dict[str, int], message: str) -> None:
    name, fields = TIMM[family]
    with pytest.raises(ValueError, match=message):
        torch_weights.from_torch(get_variant(name, **fields), read(family, "state"), **sizes)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("s2mlp_wide", {}, r"token mixer shift.*MLP-Mixer \(token_mlp\), ResMLP .*, DeiT "),
        ("vip_small_7", {}, "token mixer permute"),
        ("s2mlp_wide", {"mixer": "token_mlp"}, "another model: norm_position is 'post', there 'pr"),
        ("deit_ti", {"pool": "mean"}, "timm's DeiT .*: pool is 'mean', there 'class_token'"),
        ("resmlp_12", {"layer_scale": 0.0}, "layer_scale is 0.0"),
        ("resnet_50", {"patch_size": 1}, "timm's ResNet .*: patch_size is 1, there 4"),
    ],
)
def test_what_timm_has_not(name: str, fields: dict[str, typing.Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_weights.from_torch(get_variant(name, **fields), {})
    with pytest.raises(ValueError, match=message):
        torch_weights.to_torch(get_variant(name, **fields), {})
