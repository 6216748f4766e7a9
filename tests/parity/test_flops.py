"""Our multiply-accumulates and parameters against PyTorch's count of models in PyTorch.

Every variant: timm's model where it has one, else that of `benchmarks/torch_models.py`, and
S²-MLP in the export's file besides. `pytest -s` prints the counts.
"""

import typing

import pytest

from s2mlp_jax.export import pytorch
from s2mlp_jax.models.cost import variant_cost
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import VARIANTS
from tests.parity import peers

timm = peers.require("timm")

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks import torch_models  # noqa: E402
from s2mlp_jax.export import s2mlp_torch  # noqa: E402

SIZES = (224, 448)  # one size alone would not tell what grows with the tokens, and what does not
EXPORTED = [name for name in VARIANTS if name.startswith("s2mlp") and "v2" not in name]


def timm_or_benchmark(name: str, variant: Variant, image_size: int) -> torch.nn.Module:
    if name not in torch_models.TIMM:
        return torch_models.Model(variant)
    sized: dict[str, typing.Any] = {} if name == "resnet_50" else {"img_size": image_size}
    return timm.create_model(torch_models.TIMM[name], **sized)


def exported(name: str, variant: Variant, image_size: int) -> torch.nn.Module:
    return s2mlp_torch.S2MLP(**pytorch._arguments(variant, 1000, 3))


CASES = [
    *(pytest.param(name, timm_or_benchmark, id=name) for name in VARIANTS),
    *(pytest.param(name, exported, id=f"{name}-exported") for name in EXPORTED),
]


@pytest.mark.parametrize(("name", "build"), CASES)
@pytest.mark.parametrize("image_size", SIZES)
def test_counts_are_those_of_pytorch(
    name: str,
    build: typing.Callable[[str, Variant, int], torch.nn.Module],
    image_size: int,
) -> None:
    """To the digit. PyTorch counts two operations a multiply-accumulate, and no bias or norm."""
    variant = VARIANTS[name]
    if segments := variant.field("segments"):  # ViP is made for one grid
        variant = variant.replace(segments=segments * image_size // 224)
    with torch.device("meta"):  # shapes without numbers: no memory, no arithmetic
        model = build(name, variant, image_size).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    by_operation = {str(k): n for k, n in counter.get_flop_counts()["Global"].items()}
    # DeiT's only products of two matrices an image, as without numbers PyTorch does not fuse them.
    attention = by_operation.pop("aten.bmm", 0) if variant.mixer == "attention" else 0
    parameters = sum(x.numel() for x in model.parameters())
    ours = variant_cost(variant, image_size)
    print(
        f"{name} at {image_size}: {parameters:,} parameters, "
        f"{sum(by_operation.values()) // 2:,} multiply-accumulates, attention {attention // 2:,}"
    )
    assert ours.parameters == parameters
    assert 2 * ours.macs == sum(by_operation.values())
    assert 2 * ours.attention_macs == attention
