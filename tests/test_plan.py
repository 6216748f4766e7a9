"""Plans: figures that are right, advice that holds, and nothing written."""

import os
import pathlib
import re
import types

import jax
import numpy as np
import pytest

from s2mlp_jax.cli import parse_overrides
from s2mlp_jax.config import load_config, override
from s2mlp_jax.data.known_sizes import placeholder_split
from s2mlp_jax.train import describe, step_cost
from s2mlp_jax.train import plan as plan_module
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.data_sheets import data_sheet
from s2mlp_jax.train.devices import PlannedDevices, find_devices
from s2mlp_jax.train.plan import plan
from tests.helpers import ROOT, tiny_config
from tests.test_cli import main

# The paper's model and recipe, small.
WIDE = "--config=configs/s2mlp_wide.py"
SMALL = {
    "model.depth": 2,
    "model.dim": 64,
    "data.image_size": 64,
    "train.batch_size": 128,
    # They take longest to compile, and little memory.
    "augment.randaugment_ops": 0,
    "augment.erasing_prob": 0.0,
    "augment.mix_prob": 0.0,
}
NO_DATA = {"TFDS_DATA_DIR": "/nonexistent"}


def small_config(**overrides):  # noqa: ANN003, ANN201
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(str(ROOT / "configs/s2mlp_wide.py"), {**SMALL, **fields})


def bytes_in(lines: str, pattern: str) -> float:
    """Returns the bytes of the first size, "12.5 MiB", where SIZE stands in a pattern."""
    found = re.search(pattern.replace("SIZE", r"([\d.]+) (\w+)"), lines)
    assert found, lines
    return float(found[1]) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[found[2]]


def total_of(lines: str) -> float:
    return bytes_in(lines, "together SIZE")


@pytest.mark.parametrize("devices", [1, 8])
def test_memory_is_what_the_arrays_take(devices: int) -> None:
    config = tiny_config(model__dim=64, train__accumulation_steps=1)
    run = create_experiment(config, jax.devices()[:devices])
    step = step_cost.compile_step(run)
    memory = step.memory
    assert memory is not None
    count = sum(x.size for x in jax.tree.leaves(run.abstract_state().params))
    assert memory.parameters == memory.average == 4 * count
    assert 8 * count <= memory.optimizer <= 8 * count + 100  # two moments, and counters
    batch = config.train.batch_size // devices
    assert memory.batches == 5 * batch * (8 * 8 + 4)
    parts = memory.parameters + memory.average + memory.optimizer + memory.batches + memory.working
    assert memory.working > 4 * count  # the gradients at least
    assert parts <= memory.total <= parts + 100  # the key
    # XLA counts the matrix products, and what is between them.
    expected = 6 * run.macs_per_image * batch
    assert expected < step.flops < 1.5 * expected + 30 * count


def test_flops_are_those_of_all_parts() -> None:
    one, four = (
        step_cost.compile_step(
            create_experiment(tiny_config(train__accumulation_steps=n), jax.devices()[:1])
        )
        for n in (1, 4)
    )
    assert four.flops == pytest.approx(one.flops, rel=0.2)


def test_sharding_and_parts_take_less_memory() -> None:
    def total(**overrides):  # noqa: ANN003, ANN202
        run = create_experiment(
            # Large enough that what a step keeps is more than the sum of the parts' gradients.
            small_config(train__batch_size=512, **overrides),
            splits=(placeholder_split("imagenet2012", "train"),) * 2,
        )
        memory = step_cost.compile_step(run).memory
        assert memory is not None
        return memory

    plain, parts, cut = (
        total(),
        total(train__accumulation_steps=4),
        total(train__shard_state=True),
    )
    assert parts.working < plain.working
    assert parts.parameters == plain.parameters
    assert cut.parameters < plain.parameters / 6
    assert cut.optimizer < plain.optimizer / 6


def test_times_grow_with_the_batch_and_are_scaled_where_it_is_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = create_experiment(tiny_config(train__batch_size=64), jax.devices()[:1])
    assert "scaled" not in step_cost.measure(run).how
    monkeypatch.setattr(step_cost, "_CPU_FLOPS", 6 * run.macs_per_image * 8)
    taken: dict[int, float] = {8: 2.0, 16: 3.0}
    monkeypatch.setattr(step_cost, "_step_seconds", lambda r: taken[r.config.train.batch_size])
    monkeypatch.setattr(step_cost, "_eval_seconds", lambda r, size: 0.5)
    times = step_cost.measure(run)
    assert times.how.endswith("at batches of 8 and 16, scaled to 64")
    assert times.step == 1.0 + 64 / 8  # a second for every 8 images, and one in any case
    assert times.evaluation == 2 * 0.5 * np.ceil(360 / 24)


def test_placeholders_have_the_known_sizes() -> None:
    def size(name: str, split: str) -> int:
        found = placeholder_split(name, split)
        assert found is not None
        return len(found)

    assert size("imagenet2012", "train") == 1_281_167
    assert size("imagenet2012_256", "validation") == 50_000
    assert size("imagenet2012:5.1.0", "train[:10%]") == 128_117
    assert size("cifar10", "train[100:]+test") == 59_900
    assert placeholder_split("food101", "train") is None
    with pytest.raises(ValueError, match="no split 'test'. It has train, validation"):
        placeholder_split("imagenet2012", "test")
    found = placeholder_split("cifar10", "test")
    assert found is not None
    with pytest.raises(ValueError, match="only the size of this data set is known"):
        found.source[0]


def test_prepared_data_are_counted() -> None:
    config = small_config(
        model__depth=1, train__batch_size=16, augment__erasing_prob=0.25, augment__mix_prob=1.0
    )
    lines = "\n".join(plan(config, PlannedDevices(jax.devices(), "stated by a test")))
    assert "imagenet2012/5.1.0 train: 24 images" in lines


def test_data_of_unknown_size_get_the_command_that_prepares_them() -> None:
    config = small_config(data__name="food101")
    with pytest.raises(ValueError, match="'food101' is not prepared"):
        next(plan(config, PlannedDevices(jax.devices(), "")))


@pytest.mark.parametrize("kind", ["Tesla T4", "Tesla V100-SXM2-16GB"])
def test_cards_without_bfloat16_should_take_float32(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = data_sheet(types.SimpleNamespace(device_kind=kind))  # type: ignore[arg-type]
    for module in (plan_module, describe):
        monkeypatch.setattr(module, "data_sheet", lambda _: sheet)

    def compiling(run: object) -> None:  # what is said before, is enough
        raise TimeoutError

    monkeypatch.setattr(plan_module, "compile_step", compiling)
    said: dict[str, list[str]] = {}
    for dtype in ("bfloat16", "float32"):
        config, said[dtype] = tiny_config(train__dtype=dtype), []
        with pytest.raises(TimeoutError):
            said[dtype].extend(plan(config, PlannedDevices(jax.devices(), "by a test")))
        assert any(line.endswith("TFLOP/s each, dense float32") for line in said[dtype])
    advice = "advice    cpu has no bfloat16 units: --config.train.dtype=float32 is faster there"
    assert any(line.startswith(advice) for line in said["bfloat16"])
    assert not any("advice" in line for line in said["float32"])


def test_devices_that_cannot_be() -> None:
    for spec in ("0", "-1", "many", "v5e"):
        with pytest.raises(ValueError, match="must be a number, or a TPU slice"):
            find_devices(spec)


@pytest.mark.slow
def test_plan_of_the_digits(tmp_path: pathlib.Path) -> None:
    """As it stands: measured, and nothing written, not even the data set."""
    digits = "--config=configs/s2mlp_digits.py"
    code, output = main("--mode=plan", digits, TFDS_DATA_DIR=str(tmp_path), HOME=str(tmp_path))
    assert code == 0, output
    assert "167,754 parameters, 2,626,176 multiply-accumulates" in output
    assert "digits/1.0.0 train: 1,437 images" in output
    assert "674 steps, 43,136 images, 30 evaluations, 6 checkpoints" in output
    assert "parameters 655 KiB, optimizer 1.28 MiB, average 0 B" in output
    assert re.search(r"time +[\d.]+ \w+: 674 steps of [\d.]+ m?s and 30 evaluations", output)
    disk = bytes_in(output, "disk +SIZE for")
    each = bytes_in(output, "the best, SIZE each")
    assert disk == pytest.approx(4 * each, rel=0.01)  # three, and the best
    assert ": it fits" in output
    assert os.listdir(tmp_path) == []


def test_advice_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plan of a run that does not fit advises does fit, and says the same figure."""
    monkeypatch.setenv("TFDS_DATA_DIR", NO_DATA["TFDS_DATA_DIR"])

    def lines(limit_gib: float = 0.0, *advice: str) -> str:
        config = override(small_config(), parse_overrides(advice, "--config."))
        devices = PlannedDevices(jax.devices(), "they are stated by a test")
        return "\n".join(plan(config, devices, limit_gib))

    output = lines()
    assert "devices   8 x cpu" in output
    assert "1,281,167 images" in output
    assert "state it with --device_memory_gib" in output
    assert "time      not measured: they are stated by a test" in output
    limit = 0.62 * total_of(output) / 2**30
    output = lines(limit)
    assert "DOES NOT FIT" in output
    advice = re.search(r"advice +it fits with (.*)", output)
    assert advice, output
    total = bytes_in(output, f"SIZE  {re.escape(advice[1])}  fits")
    output = lines(limit, *advice[1].split())
    assert ": it fits" in output
    assert total_of(output) == total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--mode=plan needs a --config"),
        ([WIDE, "--devices=three"], "--devices must be a number, or a TPU slice"),
        ([WIDE, "--devices=3"], "train.batch_size 1024 cannot be divided over 3 devices"),
        ([WIDE, "--config.data.name=nothing"], "Unknown data set 'nothing'"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], message: str) -> None:
    code, output = main("--mode=plan", *arguments, **NO_DATA)
    assert code == 2, output
    assert message in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_training_needs_a_workdir() -> None:
    code, output = main(WIDE)
    assert code == 2
    assert "Error: A --workdir is needed" in output
