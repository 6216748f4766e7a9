"""Other models against independent implementations, layer by layer and whole, in float32.

MLP-Mixer, ResMLP, DeiT and ResNet against timm's, from the weights and outputs that
`parity/make.py` recorded; AS-MLP, ViP and S²-MLPv2 against numpy, written from their papers
(`parity/oracles.py`).
"""

import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2mlp_jax
from s2mlp_jax.export import torch_weights
from s2mlp_jax.models import get_variant
from tests.parity import oracles

FOLDER = pathlib.Path(__file__).parent / "parity"
TOLERANCE = 1e-5  # of a layer's largest value

# File -> a model of the family, and the fields that make it the small one of the file.
TIMM: dict[str, tuple[str, dict[str, typing.Any]]] = {
    "mlp_mixer": ("mlp_mixer_b16", {"depth": 2, "dim": 12, "patch_size": 2}),
    "resmlp": ("resmlp_12", {"depth": 2, "dim": 12, "patch_size": 2}),
    "deit": ("deit_ti", {"depth": 2, "dim": 12, "patch_size": 2, "head_dim": 6}),
    "resnet": ("resnet_50", {"depth": 2, "dim": 4, "later_depths": (1,), "later_dims": (8,)}),
}


def read(family: str, group: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a family's file under "state/" or "output/", by the rest of the name.

    "" gives what is in neither, the images.
    """
    with np.load(FOLDER / f"{family}.npz") as file:
        return {
            name.rpartition(f"{group}/")[2]: file[name]
            for name in file
            if name.startswith(f"{group}/" if group else "images")
        }


def timm_model(family: str) -> tuple[typing.Any, typing.Any]:
    """Returns our model of a family's file, and its variables from timm's weights."""
    name, fields = TIMM[family]
    model = s2mlp_jax.create_model(name, num_classes=3, **fields)
    return model, torch_weights.from_torch(model.variant, read(family, "state"))


def outputs(model, variables, images: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ANN001
    """Returns what comes out of every module of a model, and the logits, by name."""
    with jax.default_matmul_precision("highest"):
        logits, captured = jax.jit(
            lambda variables, images: model.apply(
                variables, images, train=False, capture_intermediates=True
            )
        )(variables, jnp.asarray(images))
    found = {"logits": np.asarray(logits)}
    for path, x in jax.tree.leaves_with_path(captured["intermediates"]):
        keys = [part.key for part in path if hasattr(part, "key")]
        found["/".join(keys[:-1])] = np.asarray(x)  # the last is __call__
    return found


def assert_layers_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compares what is expected, in its order, so that the first layer at fault is named."""
    for name, value in expected.items():
        # timm has tokens in a row, (b, n, c).
        error = np.abs(got[name].reshape(value.shape) - value).max() / np.abs(value).max()
        assert error < TOLERANCE, f"{name} is off by {error:.1e} of its largest value"


@pytest.mark.parametrize("family", TIMM)
def test_equals_timm(family: str) -> None:
    model, variables = timm_model(family)
    expected = read(family, "output")
    # Four layers of both blocks, embedding, final norm and logits; or the norms, blocks and logits.
    assert len(expected) == (1 + 4 + 2 + 8 + 1 if family == "resnet" else 2 * 4 + 3)
    assert_layers_equal(outputs(model, variables, read(family, "")["images"]), expected)


ONE = {"depth": 2, "dim": 16, "later_depths": (), "later_dims": (), "patch_size": 2}
TWO = {"depth": 1, "dim": 16, "later_depths": (2,), "later_dims": (32,), "patch_size": 2}
V2, VIP, AS = "s2mlp_v2_small_7", "vip_small_7", "as_mlp_t"
OBLONG, SQUARE = (12, 16), (8, 8)

# Model, fields, pixels.
CASES = [
    (AS, TWO, OBLONG),
    # 11 channels in 3 chunks of 4, 4, 3; in 5 of 3, 3, 3, 2 and none; 16 in 7 of 3, the last of 1.
    (AS, ONE | {"dim": 11, "shift_size": 3, "border": "replicate"}, OBLONG),
    (AS, ONE | {"dim": 11, "border": "reflect"}, OBLONG),
    (AS, ONE | {"shift_size": 7, "border": "circular"}, OBLONG),
    (AS, ONE | {"dim": 11, "dilation": 2}, OBLONG),
    (AS, ONE | {"dilation": 2, "border": "reflect"}, OBLONG),
    (AS, TWO | {"shift_size": 3, "dilation": 2, "border": "circular"}, OBLONG),
    (AS, TWO | {"shift_size": 7, "border": "replicate"}, OBLONG),
    (VIP, TWO | {"segments": 4}, SQUARE),
    (VIP, ONE | {"segments": 4, "fusion": "sum"}, SQUARE),
    (VIP, ONE | {"segments": 4, "branches": "width+channel"}, SQUARE),
    (VIP, TWO | {"segments": 4, "branches": "height+channel", "fusion": "mean"}, SQUARE),
    (V2, TWO, OBLONG),
    (V2, ONE | {"fusion": "mean"}, OBLONG),
    (V2, ONE | {"branches": "shift1+identity"}, OBLONG),
    (V2, TWO | {"branches": "shift1+shift2", "border": "zero"}, OBLONG),
    (V2, ONE | {"border": "circular"}, OBLONG),
]


def test_what_the_oracles_take_from_the_variants_is_the_papers() -> None:
    common = {"norm_eps": 1e-5, "expansion": 3, "branches": "", "fusion": "split_attention"}
    papers = {
        AS: {"norm_eps": 1e-5, "expansion": 4, "border": "zero", "shift_size": 5, "dilation": 1},
        VIP: common,
        V2: {**common, "border": "keep"},
    }
    for name, fields in papers.items():
        variant = get_variant(name)
        assert {field: variant.field(field) for field in fields} == fields


def draw(tree: typing.Any) -> typing.Any:
    """Draws weights from numpy: no scale of a norm is 1, no bias 0, tokens small at the start."""
    rng = np.random.RandomState(0)

    def weight(path, x) -> np.ndarray:  # noqa: ANN001
        if path[-1].key == "scale":
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        scale = 0.02 if path[0].key == "embed" else 0.3  # so that a norm's epsilon is seen
        return (scale * rng.standard_normal(x.shape)).astype(np.float32)

    return jax.tree.map_with_path(weight, tree)


@pytest.mark.parametrize(("name", "fields", "size"), CASES)
def test_equals_numpy_from_the_paper(
    name: str, fields: dict[str, typing.Any], size: tuple[int, int]
) -> None:
    model = s2mlp_jax.create_model(name, num_classes=3, **fields)
    images = np.random.RandomState(1).standard_normal((2, *size, 3)).astype(np.float32)
    shapes = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False), jnp.asarray(images)
    )
    params = draw(shapes["params"])
    oracle = oracles.as_mlp if name == AS else oracles.permutator_or_v2
    expected = oracle(params, images, model.variant)
    assert_layers_equal(outputs(model, {"params": params}, images), expected)
