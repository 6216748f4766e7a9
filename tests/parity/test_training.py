"""Whole training steps, gradients to updated weights, against a plain loop in PyTorch.

Ten steps of the real training step on the real batches of the digits, in float32 and without
augmentation or drop path; the loop has the same weights, images and settings. PyTorch's models
are timm's, and the S²-MLP of the export. `pytest -s` prints what was measured.
"""

import math
import pathlib
import typing
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2mlp_jax.export import pytorch, torch_weights
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.state import TrainState
from s2mlp_jax.train.step import make_train_step
from tests.helpers import tiny_config
from tests.parity import peers

peers.require("timm")

import torch  # noqa: E402
from timm.models.mlp_mixer import MlpMixer  # noqa: E402
from timm.models.resnet import Bottleneck, ResNet, make_blocks  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

STEPS, WARMUP, BATCH, REFERENCE_BATCH = 10, 3, 32, 16
PEAK, FIRST, LAST = 2e-3, 1e-6, 1e-5  # learning rates; the peak is that of the reference batch
DECAY, SMOOTHING, MEAN, STD = 0.05, 0.1, 0.3, 0.38
CLASSES, SIZE = 10, 8
TOLERANCE_LOSS = 5e-6  # of the loss

Torch = torch.nn.Module
Named = dict[str, np.ndarray]


def mlp_mixer() -> Torch:
    return MlpMixer(CLASSES, SIZE, in_chans=1, patch_size=2, num_blocks=2, embed_dim=24)


def deit() -> Torch:
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(SIZE, 2, in_chans=1, num_classes=CLASSES, **sizes)


def resnet() -> Torch:
    """Two stages of one block each; timm's constructor has four, of 64 channels and more."""
    model = ResNet(Bottleneck, (1, 1, 1, 1), CLASSES, in_chans=1)
    model.conv1 = torch.nn.Conv2d(1, 8, 7, 2, 3, bias=False)
    model.bn1 = torch.nn.BatchNorm2d(8)
    stages, _ = make_blocks((Bottleneck,) * 2, (8, 16), (1, 1), inplanes=8)
    for name, stage in [*stages, ("layer3", torch.nn.Identity()), ("layer4", torch.nn.Identity())]:
        setattr(model, name, stage)
    model.fc = torch.nn.Linear(64, CLASSES)
    return model


class Case(typing.NamedTuple):
    """A model to train.

    Attributes:
      name, fields: of ours, small.
      build: makes the one in PyTorch; None for S²-MLP, which the export writes.
      eps: of AdamW. Some weights have no gradient but for rounding: a bias that is the same for
        all that the next norm normalises, or a key's. Divided by its own size even 1e-9 is a whole
        step, to one side or the other; such models are compared with a larger eps than the
        recipe's 1e-8.
      tolerance: how far apart weights may end, of the largest of their array.
    """

    name: str
    fields: dict[str, typing.Any]
    build: typing.Callable[[], Torch] | None
    eps: float
    tolerance: float


_SMALL = {"depth": 2, "dim": 24, "patch_size": 2}
_RESNET = {"depth": 1, "dim": 8, "later_depths": (1,), "later_dims": (16,)}
CASES = {
    "mlp_mixer": Case("mlp_mixer_s16", _SMALL, mlp_mixer, 1e-4, 1e-5),
    "deit": Case("deit_ti", _SMALL | {"head_dim": 12}, deit, 1e-4, 1e-5),
    "resnet": Case("resnet_50", _RESNET, resnet, 1e-4, 1e-4),
    "s2mlp": Case("s2mlp_wide", _SMALL, None, 1e-8, 2e-6),
    "s2mlp_affine": Case("s2mlp_deep", _SMALL, None, 1e-8, 2e-6),
}


def experiment(case: Case) -> Experiment:
    config = tiny_config(
        model__name=case.name,
        **{f"model__{field}": value for field, value in case.fields.items()},
        model__drop_path=0.0,
        data__crop_padding=0,
        train__batch_size=BATCH,
        train__accumulation_steps=1,
        train__ema_decay=0.0,
        train__label_smoothing=SMOOTHING,
        train__steps=STEPS,
        optimizer__warmup_epochs=WARMUP * BATCH / 1437,  # the digits to train with
        optimizer__reference_batch_size=REFERENCE_BATCH,
        optimizer__learning_rate=PEAK,
        optimizer__warmup_learning_rate=FIRST,
        optimizer__final_learning_rate=LAST,
        optimizer__weight_decay=DECAY,
        optimizer__eps=case.eps,
    )
    return create_experiment(config, jax.devices()[:1])


def learning_rate(step: int) -> float:
    """Of a step, from 0: a line up to the peak, then a cosine that would end at `STEPS`."""
    peak = PEAK * BATCH / REFERENCE_BATCH
    if step < WARMUP:
        return FIRST + (peak - FIRST) * step / WARMUP
    part = (step - WARMUP) / (STEPS - WARMUP)
    return LAST + (peak - LAST) * 0.5 * (1 + math.cos(math.pi * part))


def in_torch(case: Case, run: Experiment, variables: typing.Any, folder: pathlib.Path) -> Torch:
    """Returns the model in PyTorch with our weights."""
    if case.build is None:
        folder.mkdir()
        pytorch.write(folder, run.model, variables, SIZE, 1)
        return pytorch.load_code(folder).load(folder)
    model = case.build()
    state = torch_weights.to_torch(run.model.variant, variables)
    arrays = {key: torch.from_numpy(np.array(x)) for key, x in state.items()}
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert not unexpected
    return model


def numbers(model: Torch) -> Named:
    return {
        key: x.detach().numpy().copy()
        for key, x in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def count_normalised(model: Torch) -> dict[str, int]:
    """Returns what comes to hold, by a batch norm's name, of how many values it has a variance."""
    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):

            def count(module: Torch, inputs: tuple[torch.Tensor], name: str = name) -> None:
                counts[name] = inputs[0].numel() // inputs[0].shape[1]

            module.register_forward_pre_hook(count)
    return counts


def train_in_torch(
    model: Torch, batches: list[dict[str, np.ndarray]], eps: float
) -> Iterator[float]:
    """Trains as one would in PyTorch, and yields the loss of each step."""
    skipped = getattr(model, "no_weight_decay", set)()
    decayed, others = [], []
    for key, x in model.named_parameters():
        (others if x.ndim <= 1 or key in skipped else decayed).append(x)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.999),
        eps=eps,
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    model.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        images = (torch.from_numpy(batch["image"]).permute(0, 3, 1, 2) / 255 - MEAN) / STD
        loss = criterion(model(images), torch.from_numpy(batch["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def start(run: Experiment) -> TrainState:
    """Returns a state with weights of which none is 0 or 1 or tiny: all parts then matter."""
    rng = np.random.RandomState(0)

    def weight(path: tuple[typing.Any, ...], x: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        inputs = math.prod(x.shape[:-1]) if path[-1].key == "kernel" else 100
        return (inputs**-0.5 * rng.standard_normal(x.shape)).astype(np.float32)

    shapes = run.abstract_state()
    params = jax.tree.map_with_path(weight, shapes.params)
    model_state = jax.tree.map_with_path(weight, shapes.model_state)
    state = TrainState(
        jnp.zeros((), jnp.int32), params, run.optimizer.init(params), model_state, None, None
    )
    return devices_lib.place_state(run.layout, state)


def biased(after: Named, before: Named, counts: dict[str, int]) -> Named:
    """Makes of PyTorch's running variances, which are of n - 1 values, what ours are, of n.

    Each step keeps 0.9 of the one before, so that what is left of the first one is known.
    """
    result = dict(after)
    for name, n in counts.items():
        key = f"{name}.running_var"
        first = before[key] * 0.9**STEPS
        result[key] = first + (after[key] - first) * (n - 1) / n
    return result


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ten_steps(case: Case, tmp_path: pathlib.Path) -> None:
    run = experiment(case)
    state = start(run)
    model = in_torch(case, run, jax.tree.map(np.asarray, state.variables), tmp_path / "start")
    before, counts = numbers(model), count_normalised(model)
    data = run.train_batches(0)
    batches = [next(data) for _ in range(STEPS)]
    their_losses = np.array(list(train_in_torch(model, batches, case.eps)))

    step, losses, rates = make_train_step(run), [], []
    for batch in batches:
        state, metrics = step(state, devices_lib.shard_batch(run.layout, batch), run.key)
        losses.append(float(metrics["loss"]))
        rates.append(float(metrics["learning_rate"]))
    # The first rate is what float32 leaves of a difference of peaks.
    expected_rates = [learning_rate(i) for i in range(STEPS)]
    np.testing.assert_allclose(rates, expected_rates, rtol=1e-6, atol=1e-7 * max(expected_rates))

    loss_gap = np.abs(losses / their_losses - 1).max()
    variables = jax.tree.map(np.asarray, state.variables)
    found = numbers(in_torch(case, run, variables, tmp_path / "end"))
    expected = biased(numbers(model), before, counts)
    gaps = {key: np.abs(found[key] - x).max() / np.abs(x).max() for key, x in expected.items()}
    moved = [np.abs(x - before[key]).max() / np.abs(x).max() for key, x in expected.items()]
    worst = max(gaps, key=gaps.__getitem__)
    print(
        f"{case.name}: loss {their_losses[0]:.3f} to {their_losses[-1]:.3f}, {loss_gap:.1e} of it "
        f"apart at most; {len(gaps)} arrays moved by {np.median(moved):.3f} of their largest "
        f"number (median), and are {gaps[worst]:.1e} of it apart at most ({worst})"
    )
    assert np.median(moved) > 0.01  # so that what is compared was trained
    assert loss_gap < TOLERANCE_LOSS
    assert gaps[worst] < case.tolerance
