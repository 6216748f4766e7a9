"""Evaluation: masked, counted, and honest about ties and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2mlp_jax.train import devices as devices_lib
from s2mlp_jax.train.create import create_experiment
from s2mlp_jax.train.evaluate import evaluate, make_eval_step
from tests.helpers import tiny_config


class Answers:
    """A model whose logits are the pixels of a (1, classes, 1) image."""

    def apply(self, variables, images, train):  # noqa: ANN001, ANN201
        assert not train
        return images[:, 0, :, 0] * variables["params"]


def run(logits: np.ndarray, labels: np.ndarray, batch_size: int, params: float = 1.0) -> dict:
    layout = devices_lib.make_layout()
    step = make_eval_step(Answers(), (0.0,), (1.0,), layout)  # type: ignore[arg-type]
    batches = []
    for start in range(0, len(labels), batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < len(labels)
        index = np.minimum(index, len(labels) - 1)
        batches.append({"image": logits[index], "label": labels[index], "mask": mask})
    params_array = jax.device_put(jnp.asarray(params), layout.replicated)
    result = evaluate(step, {"eval": {"params": params_array}}, batches, len(labels))
    return {name.removeprefix("eval/"): value for name, value in result.items()}


def test_equals_numpy_over_a_number_that_does_not_divide() -> None:
    rng = np.random.RandomState(0)
    pixels = np.stack([rng.permutation(40)[:12] * 6 for _ in range(45)]).astype(np.uint8)
    labels = rng.randint(0, 12, 45).astype(np.int32)
    got = run(pixels[:, None, :, None], labels, 16)
    logits = pixels / 255.0
    order = np.argsort(-logits, axis=1)
    rank = np.argmax(order == labels[:, None], axis=1)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert got["count"] == 45
    assert got["accuracy_top1"] == (rank < 1).mean()
    assert got["accuracy_top5"] == (rank < 5).mean()
    assert got["loss"] == pytest.approx(-log_softmax[np.arange(45), labels].mean(), rel=1e-5)


def test_ties_and_nan_are_no_hits() -> None:
    equal = np.full((8, 1, 10, 1), 7, np.uint8)
    labels = np.arange(8).astype(np.int32)
    got = run(equal, labels, 8)
    assert (got["accuracy_top1"], got["accuracy_top5"]) == (1 / 8, 5 / 8)
    nan = run(equal, labels, 8, params=float("nan"))
    assert (nan["accuracy_top1"], nan["accuracy_top5"]) == (0.0, 0.0)


def test_a_wrong_count_is_an_error() -> None:
    layout = devices_lib.make_layout()
    step = make_eval_step(Answers(), (0.0,), (1.0,), layout)  # type: ignore[arg-type]
    batch = {
        "image": np.zeros((8, 1, 3, 1), np.uint8),
        "label": np.zeros(8, np.int32),
        "mask": np.ones(8, bool),
    }
    params = jax.device_put(jnp.ones(()), layout.replicated)
    with pytest.raises(RuntimeError, match="Evaluated 8 images, expected 9"):
        evaluate(step, {"eval": {"params": params}}, [batch], 9)


@pytest.mark.parametrize(("batch_size", "devices"), [(8, 8), (50, 8), (360, 1), (7, 1)])
def test_batch_and_devices_do_not_change_the_result(batch_size: int, devices: int) -> None:
    config = tiny_config(eval__batch_size=batch_size)
    experiment = create_experiment(config, jax.devices()[:devices])
    state = experiment.draw_state()
    result = experiment.evaluate(state._replace(ema_params=state.params, ema_model_state={}))
    assert result["eval/count"] == result["eval_ema/count"] == 360
    assert result["eval/loss"] == result["eval_ema/loss"]
    reference = create_experiment(tiny_config(eval__batch_size=120), jax.devices()[:1])
    expected = reference.evaluate(reference.draw_state())
    assert result["eval/accuracy_top1"] == expected["eval/accuracy_top1"]
    assert result["eval/loss"] == pytest.approx(expected["eval/loss"], rel=1e-6)
