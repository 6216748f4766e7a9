"""AdamW as in the paper: warm-up, cosine, weight decay on kernels only."""

import collections
import fnmatch
import re
import typing
from collections.abc import Sequence

import jax
import optax

from s2mlp_jax.options import Options
from s2mlp_jax.saved.arrays import leaf_name

Params = typing.Any


def peak_learning_rate(options: Options) -> float:
    """Returns the peak rate for this batch size, by DeiT's linear rule if a reference is set."""
    reference = options.optimizer.reference_batch_size
    scale = options.train.batch_size / reference if reference else 1.0
    return options.optimizer.learning_rate * scale


def make_schedule(options: Options, total_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Returns a linear warm-up, then a cosine to the final rate at `total_steps`.

    The peak is scaled with the batch size; the first and the final rate are not. For a small batch
    they may be above the peak, and are then reduced to it.

    Raises:
      ValueError: if the warm-up is longer than the run.
    """
    optimizer = options.optimizer
    warmup_steps = round(optimizer.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise ValueError(
            f"optimizer.warmup_epochs {optimizer.warmup_epochs} is {warmup_steps} steps, "
            f"but the whole run has {total_steps}. Lower optimizer.warmup_epochs, or raise "
            f"train.{'steps' if options.train.steps else 'epochs'}."
        )
    peak = peak_learning_rate(options)
    return optax.warmup_cosine_decay_schedule(
        init_value=min(optimizer.warmup_learning_rate, peak) if warmup_steps else 0.0,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
        end_value=min(optimizer.final_learning_rate, peak),
    )


def decay_mask(params: Params) -> Params:
    """True for kernels; False for biases, norms and affines, which are not decayed."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def frozen(patterns: str, params: Params) -> Params:
    """True for the parameters that `config.freeze` excludes from training.

    Args:
      patterns: comma-separated patterns of paths such as "block_00/mixer/fc_in/kernel"; * matches
        anything, ? one character. A folder's name matches everything in it. "" freezes nothing.

    Raises:
      ValueError: if patterns match nothing (the message lists them), or nothing is left to train.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    names = [leaf_name(path) for path, _ in jax.tree.leaves_with_path(params)]

    def matches(name: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*")

    unmatched = [p for p in wanted if not any(matches(name, p) for name in names)]
    if unmatched:
        raise ValueError(
            f"freeze: no parameter matches {', '.join(map(repr, unmatched))}. There are "
            f"{', '.join(dict.fromkeys(_fold(name) for name in names))}."
        )
    mask = jax.tree.map_with_path(
        lambda path, _: any(matches(leaf_name(path), pattern) for pattern in wanted), params
    )
    if all(jax.tree.leaves(mask)):
        raise ValueError(f"freeze: {patterns!r} leaves nothing to train.")
    return mask


def stop_gradients(patterns: str, params: Params) -> Params:
    """Stops the gradients of the parameters that `frozen` finds, so that they take no time."""
    if not patterns:
        return params
    mask = frozen(patterns, params)
    return jax.tree.map(lambda stop, x: jax.lax.stop_gradient(x) if stop else x, mask, params)


def layer_scales(decay: float, depths: Sequence[int], params: Params) -> Params:
    """Returns the factor of each parameter's learning rate, for layer-wise decay.

    It is decay^0 for the head, decay^1 for the last block, ..., decay^(blocks + 1) for the
    embedding, as in the fine-tuning of BEiT (arXiv 2106.08254).

    Args:
      depths: number of blocks per stage.
      params: nested by the model's names; a layer between stages belongs to the next block.
    """
    blocks = sum(depths)

    def layer(name: str) -> int:
        part, _, number = name.split("/")[0].rpartition("_")
        if part == "block":
            return int(number) + 1
        if part.startswith("downsample"):  # downsample_1, downsample_norm_1
            return sum(depths[: int(number)]) + 1
        return blocks + 1 if name.startswith(("head/", "final_norm/")) else 0

    return jax.tree.map_with_path(
        lambda path, _: decay ** (blocks + 1 - layer(leaf_name(path))), params
    )


def describe_groups(patterns: str, params: Params) -> list[str]:
    """Lists the decayed, not decayed and frozen parameters, one line per kind that exists.

    Blocks are combined: "block_*/mlp/fc_in/kernel" stands for that kernel in every block.
    """
    names: dict[str, dict[str, None]] = {}
    sizes: collections.Counter[str] = collections.Counter()
    masks = (decay_mask(params), frozen(patterns, params))
    for (path, leaf), decayed, stays in zip(
        jax.tree.leaves_with_path(params), *map(jax.tree.leaves, masks), strict=True
    ):
        kind = "frozen" if stays else "decayed" if decayed else "not decayed"
        names.setdefault(kind, {})[_fold(leaf_name(path))] = None
        sizes[kind] += leaf.size
    return [
        f"{kind}: {sizes[kind]:,} parameters: {', '.join(names[kind])}"
        for kind in ("decayed", "not decayed", "frozen")
        if kind in names
    ]


def make_optimizer(options: Options, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW with decoupled decay scaled by the learning rate; clipping, if any, is first.

    The optimizer keeps no state for frozen parameters.
    """
    optimizer, variant = options.optimizer, options.model.variant
    parts = [
        optax.adamw(
            schedule,
            b1=optimizer.beta1,
            b2=optimizer.beta2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            mask=decay_mask,
        )
    ]
    if optimizer.grad_clip_norm:
        parts.insert(0, optax.clip_by_global_norm(optimizer.grad_clip_norm))
    if optimizer.layer_decay != 1.0:
        depths = (variant.depth, *variant.later_depths)

        def scale(updates: Params, _: Params) -> Params:
            scales = layer_scales(optimizer.layer_decay, depths, updates)
            return jax.tree.map(lambda s, x: s * x, scales, updates)

        parts.append(optax.stateless(scale))
    chained = optax.chain(*parts) if len(parts) > 1 else parts[0]
    if not options.freeze:
        return chained

    def labels(params: Params) -> Params:
        return jax.tree.map(
            lambda stays: "frozen" if stays else "trained", frozen(options.freeze, params)
        )

    return optax.partition({"trained": chained, "frozen": optax.set_to_zero()}, labels)


def _fold(name: str) -> str:
    """Returns a parameter's name with its block number replaced by *."""
    return re.sub(r"_\d+(/|$)", r"_*\1", name)
