"""Models: counts to the digit, a reference of the whole model in numpy, and properties."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2mlp_jax
from s2mlp_jax.models import layers
from s2mlp_jax.models.__main__ import INPUTS, variant_table
from s2mlp_jax.models.cost import paper_parameters, variant_cost
from s2mlp_jax.models.variants import VARIANTS, get_variant
from tests.test_spatial_shift import oracle as shift_oracle

TINY = {"depth": 2, "dim": 16, "patch_size": 2}


def draw_like(tree, seed: int = 0):  # noqa: ANN001, ANN201
    """Weights from numpy, whose numbers do not move between versions; norms not at 1 and 0."""
    rng = np.random.RandomState(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.randn(*x.shape) * 0.3, jnp.float32), tree)


# name -> (parameters, multiply-accumulates) with 1000 classes at 224 pixels, or as noted.
COUNTS = {
    "s2mlp_wide": (72_241_384, 13_989_033_984),
    "s2mlp_deep": (53_917_288, 10_462_682_112),
    "s2mlp_digits": (167_754, 2_626_176),  # 10 classes, 8x8x1
    "s2mlp_cifar": (1_329_802, 84_280_576),  # 10 classes, 32x32x3
    # The parameters are those of independent implementations.
    "s2mlp_v2_small_7": (25_112_680, 6_901_767_168),
    "s2mlp_v2_medium_7": (55_268_840, 16_284_307_456),
    "s2mlp_v2_small_14": (29_890_408, 6_855_613_440),
    "mlp_mixer_s32": (19_104_624, 1_002_426_368),
    "mlp_mixer_s16": (18_528_264, 3_776_958_464),
    "mlp_mixer_b32": (60_293_428, 3_237_722_112),
    "mlp_mixer_b16": (59_880_472, 12_601_767_936),
    "mlp_mixer_l16": (208_196_168, 44_547_678_208),
    "resmlp_12": (15_350_872, 3_009_739_776),
    "resmlp_24": (30_020_680, 5_961_292_800),
    "resmlp_36": (44_690_488, 8_912_845_824),
    "vip_small_14": (29_892_904, 6_855_613_440),
    "vip_small_7": (25_114_984, 6_901_767_168),
    "vip_medium_7": (55_272_488, 16_284_307_456),
    "vip_large_7": (87_784_936, 24_340_320_256),
    "as_mlp_t": (28_282_696, 4_350_425_088),
    "as_mlp_s": (49_594_696, 8_512_223_232),
    "as_mlp_b": (87_752_808, 15_126_077_440),
    "deit_ti": (5_717_416, 1_074_851_328),
    "deit_s": (22_050_664, 4_241_218_560),
    "deit_b": (86_567_656, 16_848_500_736),
    "resnet_50": (25_557_032, 4_089_184_256),
}

# Fields that make a named variant small: two blocks, or one in each of two stages.
PYRAMID = {"depth": 1, "dim": 16, "later_depths": (1,), "later_dims": (32,)}
SMALL = {
    "s2mlp_v2_small_7": PYRAMID | {"patch_size": 2},
    "s2mlp_v2_medium_7": PYRAMID | {"patch_size": 2},
    "vip_small_7": PYRAMID | {"patch_size": 2, "segments": 4},
    "vip_medium_7": PYRAMID | {"patch_size": 2, "segments": 4},
    "vip_large_7": PYRAMID | {"patch_size": 2, "segments": 4},
    "vip_small_14": TINY | {"segments": 4},
    "as_mlp_t": PYRAMID | {"patch_size": 2},
    "as_mlp_s": PYRAMID | {"patch_size": 2},
    "as_mlp_b": PYRAMID | {"patch_size": 2},
    "deit_ti": TINY | {"head_dim": 8},
    "deit_s": TINY | {"head_dim": 8},
    "deit_b": TINY | {"head_dim": 8},
    "resnet_50": PYRAMID | {"dim": 8, "patch_size": 1},
}


def small_model(name: str, num_classes: int = 3, **overrides):  # noqa: ANN003, ANN201
    """A named variant, small, for images of 8 pixels."""
    fields = {**SMALL.get(name, TINY), **overrides}
    return s2mlp_jax.create_model(name, num_classes=num_classes, **fields)


def traced_counts(name: str, fields: dict) -> tuple[int, int]:
    """Counts a model's parameters and products, at full size, without computing anything.

    Returns the number of parameters and the multiply-accumulates of every matrix product and
    convolution, counted from the shapes that jax traces. Initialization runs the whole model.
    """
    size, channels, classes = INPUTS.get(name, (224, 3, 1000))
    model = s2mlp_jax.create_model(name, num_classes=classes, **fields)
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    jaxpr, variables = jax.make_jaxpr(
        lambda key, x: model.init(key, x, train=False), return_shape=True
    )(jax.random.key(0), images)

    def products(jaxpr) -> int:  # noqa: ANN001
        total = 0
        for equation in jaxpr.eqns:
            outputs = math.prod(equation.outvars[0].aval.shape)
            if equation.primitive.name == "dot_general":
                ((contracted, _), _) = equation.params["dimension_numbers"]
                total += outputs * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            elif equation.primitive.name == "conv_general_dilated":
                total += outputs * math.prod(equation.invars[1].aval.shape[:3])
            inner = equation.params.get("jaxpr")
            total += products(getattr(inner, "jaxpr", inner)) if inner is not None else 0
        return total

    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    return parameters, products(jaxpr.jaxpr)


@pytest.mark.parametrize("name", s2mlp_jax.list_models())
def test_counts_to_the_digit(name: str) -> None:
    size, channels, classes = INPUTS.get(name, (224, 3, 1000))
    parameters, macs = COUNTS[name]  # a new variant must be entered above
    assert s2mlp_jax.count_parameters(name, classes, channels, image_size=size) == parameters
    assert s2mlp_jax.count_macs(name, size, classes, channels) == macs
    cost = variant_cost(get_variant(name), size, classes, channels)
    assert traced_counts(name, {}) == (parameters, macs + cost.attention_macs)
    assert (cost.attention_macs > 0) == name.startswith("deit")


# Ablations of the papers and mixers in another skeleton: name, fields, parameters.
OTHERS = [
    ("s2mlp_v2_small_7", {"fusion": "mean"}, 22_900_840),  # S²-MLPv2, Table 6
    ("s2mlp_v2_small_7", {"branches": "shift1+identity"}, 22_341_736),  # Table 7
    ("s2mlp_v2_small_7", {"branches": "shift1+shift2"}, 22_341_736),
    ("vip_small_14", {"fusion": "sum"}, 27_216_232),  # ViP, Table 7: "vanilla"
    ("vip_small_14", {"dim": 336, "patch_size": 16, "segments": 14}, 23_023_552),  # Small/16
    ("as_mlp_t", {"dim": 64, "later_depths": (2, 2, 2), "later_dims": (128, 256, 512)}, 9_597_480),
    ("resnet_50", {"depth": 2, "later_depths": (1,), "later_dims": (80,), "expansion": 1}, 256_296),
    ("s2mlp_wide", {"mixer": "depthwise"}, 72_241_384 + 12 * 9 * 768),
    ("s2mlp_wide", {"mixer": "depthwise", "depthwise_init": "shift"}, 72_324_328),
    ("s2mlp_wide", {"shift": "none"}, 72_241_384),
    # In the place of two layers of c x c: those over 196 tokens.
    (
        "s2mlp_wide",
        {"mixer": "token_mlp"},
        72_241_384 - 12 * 2 * 769 * 768 + 12 * (2 * 196 * 384 + 384 + 196),
    ),
    ("s2mlp_wide", {"mixer": "token_linear"}, 72_241_384 - 12 * 2 * 769 * 768 + 12 * 197 * 196),
    (
        "s2mlp_wide",
        {"mixer": "attention", "position": "learned"},
        72_241_384 + 12 * 2 * 769 * 768 + 196 * 768,
    ),
    # Nothing in the place of the two layers.
    *(
        ("s2mlp_wide", {"mixer": mixer}, 72_241_384 - 12 * 2 * 769 * 768)
        for mixer in ("pool", "random", "identity")
    ),
    ("s2mlp_wide", {"shift_fraction": 1 / 3}, 72_241_384),
]


@pytest.mark.parametrize(("name", "fields", "parameters"), OTHERS)
def test_counts_of_ablations(name: str, fields: dict, parameters: int) -> None:
    variant = get_variant(name, **fields)
    cost = variant_cost(variant, 224)
    assert s2mlp_jax.count_parameters(name, **fields) == cost.parameters == parameters
    traced, products = traced_counts(name, fields)
    if variant.mixer == "depthwise":  # which is written as sums
        products += variant.depth * 9 * 14 * 14 * variant.dim
    assert (traced, products) == (parameters, cost.macs + cost.attention_macs)
    assert (cost.attention_macs > 0) == (variant.mixer == "attention")


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [  # Tables 4, 5, 6 and 9 of the paper, recomputed by its own formula
        ({"depth": 1}, 6_494_208),
        ({"depth": 16}, 95_048_448),
        ({"dim": 192}, 4_587_456),
        ({"dim": 960}, 111_410_880),
        ({"expansion": 1}, 28_939_008),
        ({"expansion": 5}, 85_598_976),
        ({"patch_size": 32}, 73_203_456),
    ],
)
def test_paper_formula(overrides: dict, parameters: int) -> None:
    assert paper_parameters(get_variant("s2mlp_wide", **overrides)) == parameters


def test_table_shows_paper_figures() -> None:
    table = variant_table()
    for text in ("72,241,384", "71,433,984", "71M", "14.0B", "53,476,224", "51M", "2^20"):
        assert text in table


def numpy_model(params: dict, images: np.ndarray, v) -> np.ndarray:  # noqa: ANN001
    """S²-MLP from the paper's equations alone: section 3.2, Figure 1."""
    erf = np.vectorize(math.erf)

    def linear(x: np.ndarray, p: dict) -> np.ndarray:
        return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"], np.float64)

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + erf(x / math.sqrt(2)))

    def norm(x: np.ndarray, p: dict) -> np.ndarray:
        if v.norm == "layer_norm":
            centred = x - x.mean(-1, keepdims=True)
            x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + v.norm_eps)
        return x * np.asarray(p["scale"], np.float64) + np.asarray(p["bias"], np.float64)

    b, height, width, _ = images.shape
    p = v.patch_size
    rows = [
        [images[:, i : i + p, j : j + p].reshape(b, -1) for j in range(0, width, p)]
        for i in range(0, height, p)
    ]
    patches = np.stack([np.stack(row, axis=1) for row in rows], axis=1).astype(np.float64)
    x = norm(linear(patches, params["embed"]), params["embed_norm"])
    for i in range(v.depth):
        block = params[f"block_{i:02d}"]
        y = gelu(linear(x, block["mixer"]["fc_in"]))
        y = linear(shift_oracle(y, v.field("shift"), v.field("border")), block["mixer"]["fc_out"])
        x = x + norm(y, block["mixer_norm"])
        y = linear(gelu(linear(x, block["mlp"]["fc_in"])), block["mlp"]["fc_out"])
        x = x + norm(y, block["mlp_norm"])
    return linear(x.mean(axis=(1, 2)), params["head"])


@pytest.mark.parametrize("norm", ["layer_norm", "affine"])
@pytest.mark.parametrize("shift", ["a", "d", "right+left+down+up+stay"])
def test_whole_model_equals_numpy(norm: str, shift: str) -> None:
    model = s2mlp_jax.create_model("s2mlp_wide", num_classes=7, norm=norm, shift=shift, **TINY)
    images = np.random.RandomState(1).randn(2, 6, 10, 3).astype(np.float32)
    params = draw_like(s2mlp_jax.init(model, jax.random.key(0), image_size=8)["params"])
    with jax.default_matmul_precision("highest"):
        got = model.apply({"params": params}, jnp.asarray(images), train=False)
    expected = numpy_model(params, images, model.variant)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


# Variants of one family are often the same when they are small.
DIFFERENT_WHEN_SMALL = {
    repr(small_model(name, drop_path=0.0).variant): name
    for name in reversed(s2mlp_jax.list_models())
}


@pytest.mark.parametrize("name", DIFFERENT_WHEN_SMALL.values())
def test_every_parameter_gets_a_gradient(name: str) -> None:
    # Where branches start at 1e-6, as the deep variant's do, gradients drown in rounding, and
    # behind a head of zeros there are none.
    start = {"affine_init": 0.5} if name == "s2mlp_deep" else {}
    model = small_model(name, init="normal", **start)
    if model.variant.layer_scale:
        model = small_model(name, layer_scale=0.5)
    state = jax.jit(lambda: s2mlp_jax.init(model, jax.random.key(0), 8, 3))()
    params = draw_like(state.pop("params"))  # a norm's scale that starts at 0 among them
    images = jnp.asarray(np.random.RandomState(0).randn(4, 8, 8, 3), jnp.float32)
    labels = jnp.arange(4) % 3

    def loss(params):  # noqa: ANN001, ANN202
        logits = model.apply({"params": params, **state}, images, train=False)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), labels].mean()

    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert jnp.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_same_weights_for_any_size_the_patch_divides() -> None:
    model = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, **TINY)
    variables = s2mlp_jax.init(model, jax.random.key(0), image_size=4)
    for height, width in ((2, 2), (4, 8), (10, 6)):
        assert model.apply(variables, jnp.ones((1, height, width, 3)), train=False).shape == (1, 3)
    with pytest.raises(ValueError, match="5x4 pixels is not a multiple of 2, the patch"):
        model.apply(variables, jnp.ones((1, 5, 4, 3)), train=False)
    with pytest.raises(ValueError, match="normalised floating-point"):
        model.apply(variables, jnp.ones((1, 4, 4, 3), jnp.uint8), train=False)


def test_initial_values() -> None:
    model = s2mlp_jax.create_model("s2mlp_deep", depth=2, dim=256, patch_size=4, num_classes=10)
    params = s2mlp_jax.init(model, jax.random.key(0), image_size=8)["params"]
    for path, x in jax.tree.leaves_with_path(params):
        name = "/".join(part.key for part in path)
        if name.endswith("kernel"):
            assert abs(float(x.std()) / 0.02 - 1) < 0.05, name
        elif name.endswith("bias"):
            assert not x.any(), name
        else:  # the affine at a branch's end starts small, the one after the embedding does not
            expected = 1.0 if name.startswith("embed") else VARIANTS["s2mlp_deep"].affine_init
            np.testing.assert_allclose(x, expected, rtol=1e-6, err_msg=name)


def test_gelu_is_exact() -> None:
    x = jnp.linspace(-4, 4, 101)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in np.asarray(x, np.float64)]
    np.testing.assert_allclose(layers.gelu(x), exact, atol=1e-6)


def test_bfloat16_computes_in_bfloat16_with_float32_weights_and_logits() -> None:
    kwargs = {"num_classes": 5, **TINY}
    model = s2mlp_jax.create_model("s2mlp_wide", dtype=jnp.bfloat16, **kwargs)
    variables = s2mlp_jax.init(model, jax.random.key(0), image_size=8)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    variables = {"params": draw_like(variables["params"])}
    images = jnp.asarray(np.random.RandomState(0).randn(2, 8, 8, 3), jnp.float32)
    logits, captured = model.apply(variables, images, train=False, capture_intermediates=True)
    assert logits.dtype == jnp.float32
    inside = captured["intermediates"]["block_01"]["mlp_norm"]["__call__"][0]
    assert inside.dtype == jnp.bfloat16
    full = s2mlp_jax.create_model("s2mlp_wide", **kwargs).apply(variables, images, train=False)
    difference = jnp.abs(logits - full).max()
    assert 0 < difference < 0.05 * jnp.abs(full).max()


def test_drop_path_drops_whole_branches_per_image_and_keeps_the_mean() -> None:
    rate, x = 0.3, jnp.ones((4000, 2, 2, 3))
    y = layers.drop_path(rate).apply(
        {}, x, deterministic=False, rngs={"dropout": jax.random.key(0)}
    )
    per_image = np.asarray(y.reshape(4000, -1))
    assert (per_image == per_image[:, :1]).all()
    np.testing.assert_allclose(np.unique(per_image), [0.0, 1 / (1 - rate)], rtol=1e-6)
    assert abs(per_image.mean() - 1) < 0.03
    np.testing.assert_allclose(layers.drop_path_rates(0.2, 5, "linear"), [0, 0.05, 0.1, 0.15, 0.2])
    assert layers.drop_path_rates(0.2, 3, "constant") == [0.2] * 3
    assert layers.drop_path_rates(0.2, 1, "linear") == [0.0]


def test_drop_path_only_acts_in_training() -> None:
    model = s2mlp_jax.create_model("s2mlp_wide", num_classes=3, drop_path=0.5, **TINY)
    variables = {"params": draw_like(s2mlp_jax.init(model, jax.random.key(0), 8)["params"])}
    x = jnp.ones((8, 8, 8, 3))
    evaluated = model.apply(variables, x, train=False)
    trained = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert jnp.abs(evaluated - evaluated[:1]).max() < 1e-4
    assert jnp.abs(trained - trained[:1]).max() > 1e-2  # images differ by what was dropped


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("s2mlp_wid", {}, "Allowed are s2mlp_wide.*Did you mean 's2mlp_wide'"),
        ("s2mlp_wide", {"width": 3}, "no field 'width'. Its fields are depth, dim"),
        ("s2mlp_wide", {"depth": "3"}, "depth must be of type int, got '3' of type str"),
        ("s2mlp_wide", {"depth": 0}, r"depth must be in \[1, 1000\], got 0"),
        ("s2mlp_wide", {"shift": "z"}, "Unknown shift pattern 'z'"),
        ("s2mlp_wide", {"border": "z"}, "Allowed are keep, zero, circular"),
        ("s2mlp_wide", {"norm": "z"}, "Allowed are layer_norm, affine"),
        ("s2mlp_wide", {"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
        ("s2mlp_wide", {"drop_path_rule": "z"}, "Allowed are linear, constant"),
        ("s2mlp_wide", {"dim": 3}, "3 channels cannot be cut into 4"),
    ],
)
def test_errors_name_the_culprit(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        s2mlp_jax.create_model(name, **overrides)
    with pytest.raises(ValueError, match="image_size 225 is not a multiple of 16, the patch size"):
        s2mlp_jax.count_macs("s2mlp_wide", image_size=225)


@pytest.mark.slow
def test_import_needs_jax_and_flax_only() -> None:
    """What jax and flax load by themselves aside, nothing of the training stack is loaded."""
    code = """
import sys
import jax, flax.linen
before = set(sys.modules)
import s2mlp_jax
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded))
assert loaded <= {"s2mlp_jax"}, loaded
assert "tensorflow" not in sys.modules
from absl import flags
assert not [f for f in flags.FLAGS if flags.FLAGS.find_module_defining_flag(f).startswith("s2mlp")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_linear_is_the_same_with_rows_and_with_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("s2mlp_wide")
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    params = draw_like(s2mlp_jax.init(model, jax.random.key(0), image_size=8))

    def gradients():  # noqa: ANN202
        return jax.grad(lambda p: (model.apply(p, images, train=False) ** 2).sum())(params)

    rows = gradients()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), rows, gradients()
    )


def test_derivative_of_gelu() -> None:
    x = jnp.linspace(-8.0, 8.0, 4001)
    derivative = jax.vmap(jax.grad(layers.gelu))(x)
    exact = [
        0.5 * math.erfc(-v / math.sqrt(2)) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
        for v in np.asarray(x, np.float64)
    ]
    np.testing.assert_allclose(derivative, exact, rtol=1e-6, atol=1e-6)
