"""Evaluation: counts every image once, sums over all images, and divides once at the end."""

import collections
import typing
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from s2mlp_jax.data.on_device import normalize
from s2mlp_jax.models import Model
from s2mlp_jax.train.devices import Layout

EvalStep = Callable[[typing.Any, dict[str, jax.Array]], dict[str, jax.Array]]


def make_eval_step(
    model: Model, mean: tuple[float, ...], std: tuple[float, ...], layout: Layout
) -> EvalStep:
    """Returns a jitted function from (variables, batch) to sums over the batch without padding."""
    return jax.jit(
        _eval_function(model, mean, std, layout),
        in_shardings=(None, layout.batch),  # the variables keep their sharding
        out_shardings=layout.replicated,
    )


def make_whole_eval_step(
    model: Model, mean: tuple[float, ...], std: tuple[float, ...], layout: Layout
) -> EvalStep:
    """Returns the same for a set of stacked batches (n, b, ...); the sums are (n,) arrays."""
    eval_step = _eval_function(model, mean, std, layout)
    return jax.jit(
        lambda variables, batches: jax.lax.map(lambda batch: eval_step(variables, batch), batches),
        in_shardings=(None, layout.stacked_batch),
        out_shardings=layout.replicated,
    )


def _eval_function(
    model: Model, mean: tuple[float, ...], std: tuple[float, ...], layout: Layout
) -> EvalStep:
    def eval_step(variables: typing.Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        images = normalize(batch["image"], mean, std)
        logits = model.apply(layout.gather(variables), images, train=False)
        labels, mask = batch["label"], batch["mask"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # The rank is the number of classes that the label does not beat. A tie goes to the lower
        # class number, as in a stable sort. A NaN beats nothing, so it is never a hit.
        score = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        not_earlier = jnp.arange(logits.shape[-1])[None, :] >= labels[:, None]
        rank = jnp.sum(~((score > logits) | ((score == logits) & not_earlier)), axis=-1)
        hit = {k: mask & (rank < k) & ~jnp.isnan(score[:, 0]) for k in (1, 5)}
        sums = {
            "loss": jnp.sum(jnp.where(mask, losses, 0.0)),
            "top1": jnp.sum(hit[1]),
            "top5": jnp.sum(hit[5]),
            "count": jnp.sum(mask),
        }
        if "corrupt" in batch:  # summed here, as each process knows only its own images
            sums["corrupt"] = jnp.sum(batch["corrupt"])
        return sums

    return eval_step


def evaluate(
    eval_step: EvalStep,
    variables: Mapping[str, typing.Any],
    batches: Iterable[dict[str, jax.Array]],
    expected_count: int,
) -> dict[str, float]:
    """Evaluates one or more sets of variables in one pass over the data.

    Args:
      variables: name, such as "eval", -> variables of the model.
      batches: on the devices, what `eval_step` takes.

    Returns:
      For each name: NAME/accuracy_top1 and NAME/accuracy_top5 as fractions, NAME/loss (mean,
      in nats), NAME/count, and NAME/corrupt_images if any were left out.

    Raises:
      RuntimeError: if the images counted and left out do not add up to `expected_count`.
    """
    totals: collections.Counter[str] = collections.Counter()
    pending: dict[str, jax.Array] = {}
    for batch in batches:
        sums = {
            f"{name}/{figure}": value
            for name, tree in variables.items()
            for figure, value in eval_step(tree, batch).items()
        }
        _add(totals, pending)  # of the previous batch, so that only two are in flight
        pending = sums
    _add(totals, pending)
    result: dict[str, float] = {}
    for name in variables:
        count, corrupt = totals[f"{name}/count"], totals[f"{name}/corrupt"]
        if count + corrupt != expected_count or count == 0:
            left_out = f" and left out {corrupt}" if corrupt else ""
            raise RuntimeError(f"Evaluated {count} images{left_out}, expected {expected_count}.")
        if corrupt:
            result[f"{name}/corrupt_images"] = corrupt
        result[f"{name}/accuracy_top1"] = totals[f"{name}/top1"] / count
        result[f"{name}/accuracy_top5"] = totals[f"{name}/top5"] / count
        result[f"{name}/loss"] = totals[f"{name}/loss"] / count
        result[f"{name}/count"] = count
    return result


def _add(totals: collections.Counter[str], sums: dict[str, jax.Array]) -> None:
    for name, value in jax.device_get(sums).items():
        totals[name] += sum(np.ravel(value).tolist())
