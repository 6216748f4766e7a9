"""AdamW as the paper trains with it: warm-up, cosine, weight decay on kernels only."""

import re
import typing

import jax
import ml_collections
import optax

Params = typing.Any


def peak_learning_rate(config: ml_collections.ConfigDict) -> float:
    """Returns the peak rate for this batch: DeiT's linear rule, if a reference batch is set."""
    reference = config.optimizer.reference_batch_size
    scale = config.train.batch_size / reference if reference else 1.0
    return config.optimizer.learning_rate * scale


def make_schedule(
    config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: float
) -> optax.Schedule:
    """Linear warm-up, then a cosine to the final rate at `total_steps`.

    Raises:
      ValueError: if the warm-up is longer than the run.
    """
    optimizer = config.optimizer
    warmup_steps = round(optimizer.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise ValueError(
            f"optimizer.warmup_epochs {optimizer.warmup_epochs} is {warmup_steps} steps, "
            f"but the whole run has {total_steps}."
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=optimizer.warmup_learning_rate if warmup_steps else 0.0,
        peak_value=peak_learning_rate(config),
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
        end_value=optimizer.final_learning_rate,
    )


def decay_mask(params: Params) -> Params:
    """True for kernels; False for biases, norms and affines, which are not decayed."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def describe_decay(params: Params) -> list[str]:
    """Says which parameters are decayed, a line for those that are and one for the rest.

    Blocks are folded: "block_*/mlp/fc_in/kernel" stands for that of every block.
    """
    groups: dict[bool, dict[str, None]] = {True: {}, False: {}}
    sizes = {True: 0, False: 0}
    masked = jax.tree.leaves_with_path(decay_mask(params))
    for (path, decayed), leaf in zip(masked, jax.tree.leaves(params), strict=True):
        name = "/".join(str(part.key) for part in path)
        groups[decayed][re.sub(r"_\d+(/|$)", r"_*\1", name)] = None
        sizes[decayed] += leaf.size
    return [
        f"{'decayed' if decayed else 'not decayed'}: {sizes[decayed]:,} parameters: "
        f"{', '.join(groups[decayed])}"
        for decayed in (True, False)
    ]


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW with decoupled decay times the learning rate; clipping comes first, if any."""
    optimizer = config.optimizer
    adamw = optax.adamw(
        schedule,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        mask=decay_mask,
    )
    if optimizer.grad_clip_norm:
        return optax.chain(optax.clip_by_global_norm(optimizer.grad_clip_norm), adamw)
    return adamw
