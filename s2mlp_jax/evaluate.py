"""Evaluation: every image once, sums over all, one division at the end."""

import typing
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from s2mlp_jax.data.mix import normalize
from s2mlp_jax.models.backbone import Backbone
from s2mlp_jax.parallel import Layout, shard_batch

EvalStep = Callable[[typing.Any, dict[str, jax.Array]], dict[str, jax.Array]]


def make_eval_step(
    model: Backbone, mean: tuple[float, ...], std: tuple[float, ...], layout: Layout
) -> EvalStep:
    """Returns a jitted function from (params, batch) to sums over the batch's real images."""

    def eval_step(params: typing.Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = normalize(batch["image"], mean, std)
        logits = model.apply({"params": params}, images, train=False)
        labels, mask = batch["label"], batch["mask"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # How many classes come before the label: those it does not beat. A tie goes to the
        # lower class number, as in a stable sort, and a NaN beats nothing: no free hits.
        score = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        not_earlier = jnp.arange(logits.shape[-1])[None, :] >= labels[:, None]
        rank = jnp.sum(~((score > logits) | ((score == logits) & not_earlier)), axis=-1)
        hit = {k: mask & (rank < k) & ~jnp.isnan(score[:, 0]) for k in (1, 5)}
        return {
            "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
            "top1": jnp.sum(hit[1]),
            "top5": jnp.sum(hit[5]),
            "count": jnp.sum(mask),
        }

    return jax.jit(
        eval_step,
        in_shardings=(layout.replicated, layout.batch),
        out_shardings=layout.replicated,
    )


def evaluate(
    eval_step: EvalStep,
    params: typing.Any,
    batches: Iterable[dict[str, np.ndarray]],
    layout: Layout,
    expected_count: int,
) -> dict[str, float]:
    """Evaluates parameters over one pass.

    Returns:
      accuracy_top1 and accuracy_top5 as fractions, loss (nats, mean), count.

    Raises:
      RuntimeError: if the images counted are not the expected ones.
    """
    sums = [eval_step(params, shard_batch(layout, batch)) for batch in batches]
    totals = {
        name: sum(part[name].item() for part in jax.device_get(sums))
        for name in ("loss", "top1", "top5", "count")
    }
    if totals["count"] != expected_count:
        raise RuntimeError(f"Evaluated {totals['count']} images, expected {expected_count}.")
    return {
        "accuracy_top1": totals["top1"] / expected_count,
        "accuracy_top5": totals["top5"] / expected_count,
        "loss": totals["loss"] / expected_count,
        "count": expected_count,
    }
