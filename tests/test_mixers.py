"""The registry of token mixers, and the controls against their definitions."""

import dataclasses
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2mlp_jax
from s2mlp_jax.models import mixers
from s2mlp_jax.models.mixers.pool import pool_difference
from s2mlp_jax.models.mixers.random import random_mixing
from s2mlp_jax.models.spatial_shift import spatial_shift
from s2mlp_jax.models.variant import Variant, field_types
from s2mlp_jax.models.variants import get_variant

TINY: dict[str, typing.Any] = {"depth": 2, "dim": 12, "patch_size": 2, "drop_path": 0.0}
Registry = dict[str, type[mixers.TokenMixer]]


@pytest.fixture
def registry() -> typing.Iterator[Registry]:
    """The registry, put back afterwards."""
    before = dict(mixers.MIXERS)
    yield mixers.MIXERS
    mixers.MIXERS.clear()
    mixers.MIXERS.update(before)


@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (1, 1)])
def test_pooling_is_the_average_of_what_is_inside_less_the_token(shape: tuple[int, int]) -> None:
    x = np.random.RandomState(0).randn(2, *shape, 3)
    expected = np.zeros_like(x)
    for i in range(shape[0]):
        for j in range(shape[1]):
            near = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            expected[:, i, j] = near.mean(axis=(1, 2)) - x[:, i, j]
    np.testing.assert_allclose(pool_difference(jnp.asarray(x, jnp.float32)), expected, atol=1e-6)


def test_pooling_is_that_of_poolformer() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.RandomState(0).randn(2, 5, 4, 3).astype(np.float32)
    pool = torch.nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    expected = (pool(channels_first) - channels_first).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(pool_difference(jnp.asarray(x)), expected, atol=1e-6)


def test_random_mixing_is_fixed_and_averages() -> None:
    matrix = random_mixing(9, 0, "block_00/mixer")
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0, rtol=1e-6)
    assert matrix.min() > 0
    assert matrix.max() / matrix.min() < np.e**2  # softmaxes of numbers between 0 and 1
    # Written down: a run that is restored, on another machine too, must get the same matrix.
    np.testing.assert_allclose(matrix[0, :3], [0.15744068, 0.07988776, 0.07273682], rtol=1e-6)
    assert not np.array_equal(matrix, random_mixing(9, 1, "block_00/mixer"))
    assert not np.array_equal(matrix, random_mixing(9, 0, "block_01/mixer"))

    model = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, mixer="random", **TINY)
    variables = s2mlp_jax.init(model, jax.random.key(0), 6)
    assert "mixer" not in variables["params"]["block_00"]
    x = jnp.asarray(np.random.RandomState(1).randn(1, 6, 6, 3), jnp.float32)
    keep = {"capture_intermediates": True, "mutable": "intermediates"}
    seen = model.apply(variables, x, train=False, **keep)[1]["intermediates"]
    before, after = seen["embed_norm"]["__call__"][0], seen["block_00"]["mixer"]["__call__"][0]
    mixed = np.einsum("bnc,nm->bmc", before.reshape(1, 9, 12), matrix)
    np.testing.assert_allclose(after.reshape(1, 9, 12), mixed, atol=1e-6)


def test_a_partial_shift_is_a_pattern_with_more_that_stay() -> None:
    """ShiftViT moves a twelfth of the channels in each direction; two thirds stay."""
    x = jnp.asarray(np.random.RandomState(0).randn(2, 4, 5, 24), jnp.float32)
    pattern = "left+right+up+down"
    for border in ("keep", "zero", "circular"):
        got = spatial_shift(x, pattern, border, 1 / 3)
        np.testing.assert_array_equal(got, spatial_shift(x, pattern + "+stay" * 8, border))
    np.testing.assert_array_equal(got[..., 8:], x[..., 8:])


def test_a_mixer_of_ones_own(registry: Registry) -> None:
    @mixers.register("roll")
    class Roll(mixers.TokenMixer):
        """Rolls the columns, then mixes the channels."""

        distance: int = 1

        def check(self, dim: int) -> None:
            if self.distance < 0:
                raise ValueError(f"distance must not be negative, got {self.distance}.")

        def cost(self, dim: int, tokens: int) -> mixers.Cost:
            return mixers.linear_cost(dim, dim, tokens)

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return self.linear(jnp.roll(x, self.distance, axis=2), x.shape[-1], "fc")

    assert registry["roll"] is Roll
    assert field_types()["distance"] is int
    plain = get_variant("s2mlp_wide", **TINY)
    assert plain.fields()["distance"] == 1
    with pytest.raises(ValueError, match=r"no effect .*, shift; it is a field of roll"):
        get_variant("s2mlp_wide", distance=2)
    with pytest.raises(ValueError, match="distance must not be negative, got -1"):
        get_variant("s2mlp_wide", mixer="roll", distance=-1)
    with pytest.raises(ValueError, match=r"distance must be of type int, got 1.5"):
        get_variant("s2mlp_wide", mixer="roll", distance=1.5)
    model = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, mixer="roll", distance=2, **TINY)
    variables = s2mlp_jax.init(model, jax.random.key(0), 8)
    counted = s2mlp_jax.count_parameters("s2mlp_wide", 3, mixer="roll", distance=2, **TINY)
    assert sum(x.size for x in jax.tree.leaves(variables)) == counted


def test_what_cannot_be_registered(registry: Registry) -> None:
    with pytest.raises(ValueError, match="a token mixer 'shift' already: SpatialShift"):
        mixers.register("shift")(mixers.Pool)

    class NoDefault(mixers.TokenMixer):
        size: tuple[int, ...] = dataclasses.field(default_factory=tuple)

    with pytest.raises(ValueError, match="size of token mixer 'mine' needs a plain default"):
        mixers.register("mine")(NoDefault)

    class OtherType(mixers.TokenMixer):
        border: int = 0

    with pytest.raises(ValueError, match=r"border .* 'mine' is of type int, .* another .* as str"):
        mixers.register("mine")(OtherType)
    assert "mine" not in registry

    @mixers.register("mine")
    class OfTheSkeleton(mixers.TokenMixer):
        dim: int = 0

    with pytest.raises(ValueError, match=r"mixer mine has a field dim, which is one of the skel"):
        get_variant("s2mlp_wide", mixer="mine")


def test_fields_of_another_mixer_are_kept() -> None:
    """So that a variant is what it was when its mixer is changed and changed back."""
    vip = get_variant("vip_small_14", dim=384)
    assert vip.replace(mixer="attention").replace(mixer="permute") == vip
    assert hash(vip) == hash(get_variant("vip_small_14"))
    assert vip.replace(segments=8) != vip
    plain, explicit = Variant(depth=1, dim=4), Variant(depth=1, dim=4).replace(border="keep")
    assert (plain, hash(plain)) == (explicit, hash(explicit))
    permute = vip.mixer_as(mixers.Permute)
    assert permute is not None
    assert permute.segments_here == 16
    assert vip.token_mixer(1).segments_here == 8  # type: ignore[attr-defined]
    assert vip.mixer_as(mixers.SpatialShift) is None
    assert get_variant("resnet_50").mixer_as(mixers.SpatialShift) is None
    assert Variant(depth=1, dim=4).field("border") == "keep"
    assert Variant(depth=1, dim=4, mixer="axial_shift").field("border") == "zero"
