"""The training step and its parts: against formulas, across devices, and when it goes wrong."""

import functools
import math
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from s2mlp_jax.config import load_config, override, to_options
from s2mlp_jax.data.on_device import normalize, smooth_labels
from s2mlp_jax.rng import stream_key
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train import optim, train_and_evaluate
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.data_sheets import data_sheet
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.state import TrainState, update_ema
from s2mlp_jax.train.step import make_train_step
from s2mlp_jax.train.step_metrics import NonFiniteLossError, StepMetrics
from tests.helpers import ROOT, tiny_config
from tests.test_config import CONFIGS


def take_steps(run: Experiment, steps: int) -> tuple[TrainState, list[float]]:
    step = make_train_step(run)
    state, data, losses = run.draw_state(), run.train_batches(0), []
    for _ in range(steps):
        state, metrics = step(state, devices_lib.shard_batch(run.layout, next(data)), run.key)
        losses.append(float(metrics["loss"]))
    return state, losses


_TWO_STAGES = {"model.depth": 1, "model.later_depths": (1,), "model.later_dims": (64,)}
SMALLER: dict[str, dict[str, typing.Any]] = {
    "as_mlp": _TWO_STAGES,
    "deit": {"model.head_dim": 16},
    "resnet": _TWO_STAGES | {"model.dim": 8, "model.later_dims": (16,)},
    "s2mlp_v2": _TWO_STAGES,
    "vip": _TWO_STAGES,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_trains_and_evaluates(name: str, tmp_path) -> None:  # noqa: ANN001
    """The recipe as it stands, on a model of its kind that is one block deep.

    An augmentation that is that of s2mlp_wide is compiled only there.
    """
    overrides: dict[str, typing.Any] = {
        "model.depth": 1,
        "model.dim": 32,
        "train.batch_size": 8,
        "train.steps": 1,
        "optimizer.warmup_epochs": 0.0,
        "eval.batch_size": 8,
        "log.tensorboard": False,
        "data.num_threads": 1,
    }
    overrides |= SMALLER.get(name, {})
    if name == "ablation_imagenet100":  # of which the tests prepare no stand-in
        overrides["data.name"] = "imagenet2012"
    if name == "finetune":  # of which test_finetune has a model and a folder
        overrides |= {"data.name": "imagenet2012", "data.eval_split": "validation"}
    if name == "transfer":  # half of it
        overrides["data.name"] = "cifar10"
    config = load_config(str(ROOT / CONFIGS[name]), overrides)
    wide = load_config(str(ROOT / CONFIGS["s2mlp_wide"]))
    if name != "s2mlp_wide" and config.augment == wide.augment:
        none = {"augment.randaugment_ops": 0, "augment.erasing_prob": 0.0}
        config = override(config, {**none, "augment.mix_prob": 0.0})
    result = train_and_evaluate(config, tmp_path)
    count = {"imagenet2012": 10, "cifar10": 21, "digits": 360}[config.data.name]
    assert result["eval/count"] == count
    assert math.isfinite(result["eval/loss"])


def test_loss_and_gradient_are_those_of_the_formula() -> None:
    config = tiny_config(train__accumulation_steps=1, model__drop_path=0.0, train__ema_decay=0.0)
    run = create_experiment(config, jax.devices()[:1])
    batch = next(run.train_batches(0))
    state = run.draw_state()
    params = jax.tree.map(np.asarray, state.params)

    def loss(params: typing.Any) -> jax.Array:
        images = (batch["image"] / 255.0 - 0.3) / 0.38
        logits = run.model.apply({"params": params}, jnp.asarray(images, jnp.float32), train=False)
        targets = np.full((16, 10), 0.01, np.float32)
        targets[np.arange(16), batch["label"]] += 0.9
        return -(jax.nn.log_softmax(logits) * targets).sum(-1).mean()

    value, gradient = jax.value_and_grad(loss)(params)
    step = make_train_step(run)
    new_state, metrics = step(state, devices_lib.shard_batch(run.layout, batch), run.key)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-4)
    # The first step of AdamW moves every number by the learning rate, against its gradient's sign.
    rate = float(metrics["learning_rate"])
    path = ("block_00", "mixer", "fc_in", "bias")
    before, after, slope = (
        np.asarray(functools.reduce(lambda node, key: node[key], path, tree))
        for tree in (params, new_state.params, gradient)
    )
    clear = np.abs(slope) > 1e-4
    assert clear.any()
    np.testing.assert_allclose((after - before)[clear], -rate * np.sign(slope)[clear], rtol=1e-2)


def test_accumulation_gives_the_same_step() -> None:
    one, four = (
        take_steps(
            create_experiment(tiny_config(train__accumulation_steps=parts, model__drop_path=0.0)), 3
        )
        for parts in (1, 2)
    )
    np.testing.assert_allclose(one[1], four[1], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(four[0].params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("count", [2, 8])
def test_devices_do_not_change_the_loss(count: int) -> None:
    """Drop path and accumulation included: their draws belong to the global batch."""
    config = tiny_config()
    one = take_steps(create_experiment(config, jax.devices()[:1]), 4)[1]
    many = take_steps(create_experiment(config, jax.devices()[:count]), 4)[1]
    np.testing.assert_allclose(one, many, rtol=2e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_devices_exchange_sums_and_nothing_else(parts: int) -> None:
    """Neither images nor activations travel between devices, accumulation or not."""
    config = tiny_config(train__batch_size=32, train__accumulation_steps=parts)
    run = create_experiment(config)
    step = make_train_step(run)
    batch = devices_lib.shard_batch(run.layout, next(run.train_batches(0)))
    program = step.lower(run.abstract_state(), batch, run.key).compile().as_text()
    assert "all-reduce" in program
    for exchange in ("all-to-all", "all-gather", "collective-permute"):
        assert exchange not in program


def test_drop_path_draws_anew_every_step_and_only_then() -> None:
    run = create_experiment(tiny_config(model__drop_path=0.5), jax.devices()[:1])
    step = make_train_step(run)
    batch = devices_lib.shard_batch(run.layout, next(run.train_batches(0)))

    def loss_at(number: int) -> float:
        state = run.draw_state()._replace(
            step=devices_lib.replicate(run.layout, jnp.asarray(number))
        )
        return float(step(state, batch, run.key)[1]["loss"])

    assert loss_at(0) == loss_at(0)
    assert loss_at(0) != loss_at(1)


def test_same_seed_same_run_other_seed_other_run() -> None:
    losses = [
        take_steps(create_experiment(tiny_config(seed=s), jax.devices()[:1]), 2)[1]
        for s in (0, 0, 1)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_bfloat16_keeps_float32_weights_and_learns() -> None:
    run = create_experiment(tiny_config(train__dtype="bfloat16"), jax.devices()[:1])
    state, losses = take_steps(run, 12)
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    full = take_steps(create_experiment(tiny_config(), jax.devices()[:1]), 12)[1]
    np.testing.assert_allclose(losses, full, rtol=0.05)
    assert losses != full


def test_ema_is_the_bias_corrected_average() -> None:
    values = np.random.RandomState(0).randn(50)
    for decay in (0.9, 0.99996):
        ema = jnp.zeros(())
        for t, value in enumerate(values, start=1):
            ema = update_ema(ema, jnp.asarray(value, jnp.float32), decay, jnp.asarray(t))
            weights = decay ** np.arange(t - 1, -1, -1)
            expected = (weights * values[:t]).sum() / weights.sum()
            np.testing.assert_allclose(ema, expected, rtol=1e-4, atol=1e-5)
    # What does not move stays exactly where it is, however long.
    still = jnp.asarray(0.1)
    assert update_ema(still, still, 0.99996, jnp.asarray(100_000)) == still


def test_schedule_warms_up_and_ends_at_the_final_rate() -> None:
    options = to_options(tiny_config(optimizer__warmup_epochs=2.0, train__batch_size=32))
    schedule = optim.make_schedule(options, total_steps=100, steps_per_epoch=5.0)
    assert schedule(0) == pytest.approx(options.optimizer.warmup_learning_rate, rel=1e-3)
    assert schedule(10) == pytest.approx(2 * 2e-3)  # twice the reference batch, twice the rate
    assert schedule(55) == pytest.approx((4e-3 + 1e-5) / 2, rel=1e-4)  # half way down the cosine
    assert schedule(100) == pytest.approx(1e-5, rel=1e-4)
    with pytest.raises(ValueError, match="warmup_epochs 2.0 is 10 steps, but the whole run has 10"):
        optim.make_schedule(options, total_steps=10, steps_per_epoch=5.0)


def test_a_small_batch_s_rate_never_rises_after_its_peak() -> None:
    options = to_options(
        tiny_config(
            train__batch_size=2, optimizer__learning_rate=4e-6, optimizer__warmup_epochs=2.0
        )
    )
    peak = optim.peak_learning_rate(options)
    assert peak < options.optimizer.warmup_learning_rate < options.optimizer.final_learning_rate
    schedule = optim.make_schedule(options, total_steps=100, steps_per_epoch=5.0)
    assert [float(schedule(i)) for i in (0, 10, 50, 100)] == pytest.approx([peak] * 4)
    fixed = tiny_config(optimizer__reference_batch_size=0, train__batch_size=32)
    assert optim.peak_learning_rate(to_options(fixed)) == 2e-3


def test_weight_decay_touches_kernels_only_and_is_told() -> None:
    config = tiny_config()
    params = create_experiment(config).abstract_state().params
    for path, decayed in jax.tree.leaves_with_path(optim.decay_mask(params)):
        assert decayed == (path[-1].key == "kernel")
    decayed, rest = optim.describe_groups("", params)
    assert decayed.startswith("decayed: ")
    assert "block_*/mixer/fc_in/kernel" in decayed
    assert "block_*/mlp_norm/scale" in rest
    assert "kernel" not in rest


def test_clipping_limits_the_update() -> None:
    run = create_experiment(tiny_config(optimizer__grad_clip_norm=1.0))
    grads = jax.tree.map(lambda x: jnp.full(x.shape, 3.0), run.abstract_state().params)
    state = run.optimizer.init(grads)
    first = jax.tree.leaves(run.optimizer.update(grads, state, grads)[1][1][0].mu)
    norm = optax.tree.norm(first) / (1 - run.config.optimizer.beta1)
    assert norm == pytest.approx(1.0, rel=1e-3)


def test_normalize_and_smooth() -> None:
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 3, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(jnp.asarray(images), mean, std), expected, atol=1e-5)
    np.testing.assert_allclose(
        smooth_labels(jnp.asarray([1]), 4, 0.1), [[0.025, 0.925, 0.025, 0.025]], rtol=1e-6
    )


def test_streams_differ_by_name_and_step() -> None:
    key = jax.random.key(0)
    draws = {
        jax.random.key_data(stream_key(key, name, step)).tobytes()
        for name in ("params", "dropout")
        for step in range(3)
    }
    assert len(draws) == 6


def test_nan_stops_the_run_and_names_the_step(tmp_path) -> None:  # noqa: ANN001
    """A rate that is absurd: some step's update is infinite, and the next loss is NaN."""
    config = tiny_config(
        optimizer__learning_rate=1e30, train__steps=30, optimizer__warmup_epochs=0.0
    )
    with pytest.raises(
        NonFiniteLossError, match=r"train/\w+ is \w+ at step \d+\. The last checkpoint"
    ):
        train_and_evaluate(config, tmp_path)


def test_log_averages_fetches_late_and_finds_the_first_bad_step() -> None:
    lines: list[tuple[int, dict[str, float]]] = []

    def make(start: int, unwritten: dict) -> StepMetrics:
        return StepMetrics(
            lambda step, averages: lines.append((step, averages)),
            is_due=lambda step: step % 4 == 0,
            images_per_step=2,
            start_step=start,
            unwritten=unwritten,
        )

    log = make(0, {})
    for step in range(1, 7):
        log.add(step, {"loss": jnp.asarray(float(step)), "grad_norm": jnp.ones(())})
        log.catch_up(step - 1)
    assert [(step, averages["loss"]) for step, averages in lines] == [(4, 2.5)]
    assert lines[0][1]["images_per_second"] > 0
    with log.paused(6):  # as before a checkpoint
        assert log.unwritten == {"loss": [5.0, 6.0], "grad_norm": [1.0, 1.0]}
    resumed = make(6, log.unwritten)
    for step in (7, 8, 9):
        loss = float("nan") if step == 9 else float(step)
        resumed.add(step, {"loss": jnp.asarray(loss), "grad_norm": jnp.ones(())})
    resumed.catch_up(8)
    assert lines[-1][:1] == (8,)
    assert lines[-1][1]["loss"] == 6.5
    with pytest.raises(NonFiniteLossError, match="train/loss is nan at step 9"):
        resumed.catch_up(12)
    # A gradient that is not finite stops at once, before the parameters it made are saved.
    bad = make(0, {})
    bad.add(1, {"loss": jnp.ones(()), "grad_norm": jnp.asarray(float("inf"))})
    with pytest.raises(NonFiniteLossError, match="train/grad_norm is inf at step 1"):
        bad.fetch(1)


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        ValueError, match="accumulation_steps 12 cannot be divided over 8 devices.*8, 16"
    ):
        create_experiment(tiny_config(train__batch_size=24))
    with pytest.raises(ValueError, match="images of 1 channels, but data.mean"):
        create_experiment(tiny_config(data__mean=(0.0,) * 3, data__std=(1.0,) * 3))


def test_positions_of_the_global_batch() -> None:
    layout = devices_lib.make_layout()
    np.testing.assert_array_equal(devices_lib.local_positions(layout, 24), np.arange(24))


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 438.9e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla V100-SXM2-16GB", 15.7e12),
        ("TPU v5 lite", 197e12),
        ("TPU7x", 1153.5e12),
        ("cpu", None),
    ],
)
def test_data_sheets_are_found_by_the_closest_name(kind: str, peak: float | None) -> None:
    device = types.SimpleNamespace(device_kind=kind)
    sheet = data_sheet(device)  # type: ignore[arg-type]
    assert (sheet.peak_flops if sheet else None) == peak
