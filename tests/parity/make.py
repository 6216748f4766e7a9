"""Makes the files that test_parity.py compares with, from timm's models in PyTorch.

  python tests/parity/make.py          (needs torch and timm, which the tests do not)

FAMILY.npz holds `images` (b, h, w, 3), `state/NAME`, the weights by timm's names, and
`output/NAME`, what comes out of a layer by our names. timm computes in float64, so that an output
is off by its own rounding to float32 only.
"""

import pathlib
from collections.abc import Callable

import numpy as np
import timm
import torch
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock
from timm.models.resnet import Bottleneck, ResNet, make_blocks
from timm.models.vision_transformer import VisionTransformer

FOLDER = pathlib.Path(__file__).parent
CLASSES, PATCH, DIM, DEPTH = 3, 2, 12, 2
# Where the grid may have unequal sides it has: rows for columns is then an error of shapes.
SQUARE, OBLONG = (8, 8), (8, 12)


def mlp_mixer() -> torch.nn.Module:
    return MlpMixer(CLASSES, OBLONG, patch_size=PATCH, num_blocks=DEPTH, embed_dim=DIM)


def resmlp() -> torch.nn.Module:
    return MlpMixer(
        CLASSES,
        SQUARE,
        patch_size=PATCH,
        num_blocks=DEPTH,
        embed_dim=DIM,
        mlp_ratio=4,
        block_layer=ResBlock,
        norm_layer=Affine,
    )


def deit() -> torch.nn.Module:
    return VisionTransformer(
        OBLONG, PATCH, num_classes=CLASSES, embed_dim=DIM, depth=DEPTH, num_heads=2
    )


def resnet() -> torch.nn.Module:
    """Two stages of 4 and 8 channels; timm's stem would have 64."""
    model = ResNet(Bottleneck, (1, 1, 1, 1), CLASSES)
    model.conv1 = torch.nn.Conv2d(3, 4, 7, 2, 3, bias=False)
    model.bn1 = torch.nn.BatchNorm2d(4)
    stages, _ = make_blocks((Bottleneck,) * 2, (4, 8), (2, 1), inplanes=4)
    for name, stage in [*stages, ("layer3", torch.nn.Identity()), ("layer4", torch.nn.Identity())]:
        setattr(model, name, stage)
    model.fc = torch.nn.Linear(32, CLASSES)
    return model


# timm's layers -> ours, `{i}` and `{i:02d}` being a block's number. What mixes tokens works on
# (b, c, n) in timm's MLP models: "T" says that its output is to be turned over.
_TOP = {"norm": "final_norm", "": "logits"}
_BLOCK = {"blocks.{i}.norm1": "block_{i:02d}/mixer_norm", "blocks.{i}": "block_{i:02d}"}
FAMILIES: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, int], dict[str, str]]] = {
    "mlp_mixer": (
        mlp_mixer,
        OBLONG,
        {
            "stem": "embed",
            "blocks.{i}.mlp_tokens": "block_{i:02d}/mixer T",
            "blocks.{i}.mlp_channels": "block_{i:02d}/mlp",
            **_BLOCK,
            **_TOP,
        },
    ),
    "resmlp": (
        resmlp,
        SQUARE,
        {
            "stem": "embed",
            "blocks.{i}.linear_tokens": "block_{i:02d}/mixer T",
            "blocks.{i}.mlp_channels": "block_{i:02d}/mlp",
            **_BLOCK,
            **_TOP,
        },
    ),
    "deit": (
        deit,
        OBLONG,
        {
            "patch_embed": "embed",
            "blocks.{i}.attn": "block_{i:02d}/mixer",
            "blocks.{i}.mlp": "block_{i:02d}/mlp",
            **_BLOCK,
            **_TOP,
        },
    ),
}

# timm's blocks of the ResNet -> ours.
_RESNET = {"layer1.0": "block_00", "layer1.1": "block_01", "layer2.0": "block_02"}
FAMILIES["resnet"] = (
    resnet,
    (11, 15),  # 6x8, 3x4, then 2x2: odd sides are rounded up, even ones padded on both sides
    {
        "bn1": "norm_stem",
        **{f"{timm_}.bn{k}": f"{ours}/norm_{k}" for timm_, ours in _RESNET.items() for k in "123"},
        "layer1.0.downsample": "block_00/norm_skip",
        "layer2.0.downsample": "block_02/norm_skip",
        **_RESNET,
        "": "logits",
    },
)

# Small tokens at the start, beside which the norms' epsilon is seen.
_SMALL = ("stem.", "patch_embed.", "cls_token", "pos_embed", "conv1.", "bn1.running_mean")
_NORMS = ("norm", "norm1", "norm2", "bn1", "bn2", "bn3", "downsample.1")
_SCALES = (*(f"{norm}.weight" for norm in _NORMS), ".alpha", ".ls1", ".ls2", "running_var")


def draw(name: str, shape: tuple[int, ...], rng: np.random.RandomState) -> np.ndarray:
    """Draws a weight such that its part of the model matters: no scale is 1 or tiny, no bias 0."""
    if name.endswith(_SCALES):
        value = rng.uniform(0.5, 1.5, shape) * (1e-3 if name == "bn1.running_var" else 1)
    else:
        value = rng.standard_normal(shape) * (0.02 if name.startswith(_SMALL) else 0.3)
    return value.astype(np.float32)


def make(family: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a family's file."""
    build, size, hooked = FAMILIES[family]
    model, rng = build().eval(), np.random.RandomState(0)
    state = {
        name: draw(name, tuple(x.shape), rng)
        for name, x in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()}, strict=True)
    outputs: dict[str, np.ndarray] = {}

    def keep(layer: str, ours: str) -> None:
        name, _, turned = ours.partition(" ")

        def hook(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            output = output.transpose(1, 2) if turned else output
            output = output.permute(0, 2, 3, 1) if output.ndim == 4 else output
            outputs[f"output/{name}"] = output.numpy().astype(np.float32)

        model.get_submodule(layer).register_forward_hook(hook)

    for layer, ours in hooked.items():
        for i in range(DEPTH if "{i}" in layer else 1):
            keep(layer.format(i=i), ours.format(i=i))
    images = rng.standard_normal((2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        model.double()(torch.from_numpy(images).permute(0, 3, 1, 2).double())
    return {"images": images, **{f"state/{name}": x for name, x in state.items()}, **outputs}


def main() -> None:
    for family in FAMILIES:
        path = FOLDER / f"{family}.npz"
        np.savez(path, **make(family))
        print(f"{path}: {path.stat().st_size:,} bytes (timm {timm.__version__})")


if __name__ == "__main__":
    main()
