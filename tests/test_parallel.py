"""Memory against time: blocks computed again, and the state cut over the devices."""

import functools
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2mlp_jax.progress import Progress
from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train import train_and_evaluate
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.restore import evaluate_workdir
from s2mlp_jax.train.step import make_train_step
from tests.helpers import read_lines, tiny_config
from tests.test_cli import DIGITS, SEVERAL, finish, main, run_on_one_device, start_two_processes
from tests.test_train import take_steps

# Wide enough for its kernels to be cut.
wide_config = functools.partial(tiny_config, model__dim=64)


def compile_step(run: Experiment) -> jax.stages.Compiled:
    step = make_train_step(run)
    return step.lower(*run.abstract_step_arguments()).compile()


def test_abstract_arguments_are_those_of_a_real_step() -> None:
    run = create_experiment(wide_config(train__shard_state=True))
    batch = devices_lib.shard_batch(run.layout, next(run.train_batches(0)))
    abstract, real = run.abstract_step_arguments(), (run.draw_state(), batch, run.key)
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)


def test_remat_is_the_same_function_in_less_memory() -> None:
    """The same parameter tree, loss and gradient; activations kept between blocks only."""
    plain, remat = (
        create_experiment(
            tiny_config(train__remat=remat, model__depth=6, train__batch_size=64), jax.devices()[:1]
        )
        for remat in (False, True)
    )
    assert plain.abstract_state() == remat.abstract_state()
    images = jnp.asarray(next(plain.train_batches(0))["image"] / 255.0, jnp.float32)
    params, key = plain.draw_state().params, jax.random.key(1)

    def loss(run: Experiment, params: dict) -> jax.Array:
        rngs = {"dropout": key}
        logits = run.model.apply({"params": params}, images, train=True, rngs=rngs)
        return (logits**2).mean()

    results = [jax.value_and_grad(functools.partial(loss, run))(params) for run in (plain, remat)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    memory = [compile_step(run).memory_analysis().temp_size_in_bytes for run in (plain, remat)]
    assert memory[1] < 0.6 * memory[0]


def test_the_state_is_cut_along_the_longest_axis_that_divides() -> None:
    layout = devices_lib.make_layout(shard_state=True)

    def cut(*shape: int) -> tuple:
        return tuple(layout.state_sharding(shape).spec)

    assert cut(768, 2304) == (None, "data")
    assert cut(2304, 768) == ("data",)
    assert cut(768, 768) == (None, "data")
    assert cut(4096, 1001) == ("data",)
    assert cut(768) == cut() == cut(1001, 1001) == ()
    assert devices_lib.make_layout().state_sharding((768, 2304)) == layout.replicated


def test_a_cut_state_gives_the_same_run_in_an_eighth_of_the_memory() -> None:
    """Drop path, accumulation, clipping and the average of the weights included."""
    whole, cut = (
        create_experiment(wide_config(train__shard_state=s, optimizer__grad_clip_norm=1.0))
        for s in (False, True)
    )
    (state, losses), (cut_state, cut_losses) = take_steps(whole, 5), take_steps(cut, 5)
    np.testing.assert_allclose(cut_losses, losses, rtol=2e-6)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(cut_state), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    evaluations = whole.evaluate(state), cut.evaluate(cut_state)
    for name, value in evaluations[0].items():
        assert evaluations[1][name] == pytest.approx(value, rel=1e-4), name

    total = sum(x.nbytes for x in jax.tree.leaves(cut_state))
    for device in jax.devices():
        held = sum(
            shard.data.nbytes
            for x in jax.tree.leaves(cut_state)
            for shard in x.addressable_shards
            if shard.device == device
        )
        # Biases, norms and this small head stay whole: a sixteenth of the numbers here.
        assert total / 8 < held < total / 8 + total / 12


@pytest.mark.parametrize("parts", [1, 2])
def test_with_a_cut_state_weights_travel_and_activations_do_not(parts: int) -> None:
    """One image a device and part, where activations are smaller than weights."""
    run = create_experiment(
        wide_config(
            train__batch_size=8 * parts, train__accumulation_steps=parts, train__shard_state=True
        )
    )
    program = compile_step(run).as_text()
    shapes = {x.shape for x in jax.tree.leaves(run.abstract_state().params)}
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", program)
    assert gathered
    assert {tuple(map(int, shape.split(","))) for shape in gathered} <= shapes
    for exchange in ("all-to-all", "collective-permute"):
        assert exchange not in program
    arguments = compile_step(run).memory_analysis().argument_size_in_bytes
    state = jax.tree.leaves(run.abstract_state())
    held = sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in state)
    assert held < arguments < held + 100 * parts  # one image a part, its label, and the key


def test_a_run_goes_on_whole_cut_and_on_other_devices(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice; started cut over 8 devices, gone on whole on 2, ended cut over 4."""

    class Pulled(Exception):  # noqa: N818
        pass

    train_and_evaluate(wide_config(train__steps=12), tmp_path / "never stopped")
    original = Progress.advance
    starts = [(True, 8, 4), (False, 2, 8), (True, 4, None)]
    for cut, count, stop_at in starts:

        def advance(self: Progress, stop_at: int | None = stop_at) -> None:
            original(self)
            advance.step += 1  # type: ignore[attr-defined]
            if advance.step == stop_at:  # type: ignore[attr-defined]
                raise Pulled

        advance.step = 0 if count == 8 else 3 if count == 2 else 7  # type: ignore[attr-defined]
        monkeypatch.setattr(Progress, "advance", advance)
        overrides = {"train__shard_state": cut, "train__remat": cut}
        config = wide_config(train__steps=12, checkpoint__every_epochs=0.001, **overrides)
        try:
            train_and_evaluate(config, tmp_path / "stopped", jax.devices()[:count])
        except Pulled:
            assert stop_at
    monkeypatch.undo()
    pairs = zip(
        read_lines(tmp_path / "never stopped"), read_lines(tmp_path / "stopped"), strict=True
    )
    for expected, line in pairs:
        assert line == pytest.approx(expected, rel=1e-5)
    last = read_lines(tmp_path / "stopped")[-1]
    assert evaluate_workdir(tmp_path / "stopped")["eval/loss"] == pytest.approx(last["eval/loss"])


@pytest.mark.slow
def test_two_processes_share_a_state_and_one_goes_on_with_it(tmp_path: pathlib.Path) -> None:
    """Each of the two writes its part of the checkpoint; it is evaluated and continued alone."""
    both = start_two_processes(tmp_path / "two", *SEVERAL, "--config.train.shard_state=True")
    for code, output in map(finish, both):
        assert code == 0, output
    expected, lines = read_lines(run_on_one_device()), read_lines(tmp_path / "two")
    for line, reference in zip(lines, expected, strict=True):
        assert line == pytest.approx(reference, rel=1e-4)
    code, output = main("--mode=eval", f"--workdir={tmp_path}/two")
    assert code == 0, output
    assert f"top-1 {lines[-1]['eval/accuracy_top1']:.2%}" in output
    # The last checkpoint lost, whole and alone from the one before.
    checkpoints = sorted((tmp_path / "two/checkpoints").iterdir(), key=lambda p: int(p.name))
    shutil.rmtree(checkpoints[-1])
    code, output = main(DIGITS, f"--workdir={tmp_path}/two", *SEVERAL)
    assert code == 0, output
    assert f"resume    from step {checkpoints[-2].name}" in output
    assert read_lines(tmp_path / "two")[-1] == pytest.approx(expected[-1], rel=1e-4)
