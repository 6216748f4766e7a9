"""S²-MLP and its relatives on equal terms: one recipe, one data set, the same seeds.

First the token mixers, in S²-MLP's own skeleton at equal width and depth (section 3.3 of the
paper). Then the families, each in its own skeleton, with the parameters of S²-MLP ("=params") and
with its multiply-accumulates ("=macs"), including the products of attention.

python -m s2mlp_jax.sweep --config=configs/compare.py:digits --workdir=... --seeds=5
python -m s2mlp_jax.sweep --config=configs/compare.py:digits --workdir=... --measure
python -m s2mlp_jax.report ...
"""

import types
import typing

import ml_collections

from configs import ablation
from s2mlp_jax.models.cost import variant_cost
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.models.variants import get_variant

Fields = dict[str, typing.Any]


class Scale(typing.NamedTuple):
    """A data set, and the S²-MLP that the other models are compared with on it.

    Attributes:
      recipe: the scale of `ablation.get_config`.
      model: a named variant; `fields` changes some of its fields.
    """

    recipe: str
    model: str
    image_size: int
    channels: int
    classes: int
    fields: typing.Mapping[str, typing.Any] = types.MappingProxyType({})

    def variant(self) -> Variant:
        """Returns this S²-MLP."""
        return get_variant(self.model, **self.fields)


SCALES = {
    "digits": Scale("digits", "s2mlp_digits", 8, 1, 10),
    # Two cores train this model in minutes. Only crop and flip are used: the other augmentation
    # reduces the accuracy in a run of one epoch (results/recipe.md).
    "cifar10_small": Scale(
        "cifar10", "s2mlp_cifar", 32, 3, 10, {"depth": 4, "dim": 64, "drop_path": 0.0}
    ),
    "cifar10": Scale("cifar10", "s2mlp_cifar", 32, 3, 10),
    "imagenet": Scale("imagenet100", "s2mlp_wide", 224, 3, 1000),
}


def get_config(scale: str = "digits") -> ml_collections.ConfigDict:
    """Returns the recipe at a scale; "imagenet" is ImageNet-1K.

    Raises:
      ValueError: for another scale.
    """
    check_scale(scale)
    config = ablation.get_config(SCALES[scale].recipe)
    for field, value in SCALES[scale].fields.items():
        config.model[field] = value
    if scale == "imagenet":
        config.data.name = "imagenet2012"
    if scale == "cifar10_small":
        config.data.repeats = 1
        config.augment.randaugment_ops = 0
        config.augment.erasing_prob = 0.0
        config.augment.mix_prob = 0.0
        config.train.batch_size = 64
        config.train.epochs = 1.0
        config.train.dtype = "float32"
        config.train.ema_decay = 0.0
        config.optimizer.learning_rate = 2e-3
        config.optimizer.reference_batch_size = 64
        config.optimizer.warmup_epochs = 0.15
        config.eval.every_epochs = 0.25
        config.checkpoint.every_epochs = 0.5
    return config


def check_scale(scale: str) -> None:
    """Raises a ValueError that lists the allowed scales if the scale is unknown."""
    if scale not in SCALES:
        raise ValueError(f"Unknown scale {scale!r}. Allowed are {', '.join(SCALES)}.")


def mixers(scale: str) -> dict[str, Fields]:
    """Returns the settings that change only the token mixer."""
    base = SCALES[scale].variant()
    tokens = SCALES[scale].image_size // base.patch_size  # per side
    head_dim = min(64, base.dim // 4)
    settings: dict[str, Fields] = {
        "none": {"shift": "none"},
        "a": {"shift": "a"},
        "b": {"shift": "b"},
        "depthwise": {"mixer": "depthwise"},
        "depthwise-from-a": {"mixer": "depthwise", "depthwise_init": "shift"},
        "token-mlp": {"mixer": "token_mlp"},
        "token-linear": {"mixer": "token_linear"},
        "split-shift": {"mixer": "split_shift"},
        "axial-shift": {"mixer": "axial_shift", "border": "zero"},
        "permute": {"mixer": "permute", "segments": tokens},
        "attention": {"mixer": "attention", "position": "learned", "head_dim": head_dim},
        # Controls: a third of the channels moves, as in ShiftViT; mixers without parameters.
        "partial-shift": {"shift_fraction": 1 / 3},
        "pool": {"mixer": "pool"},
        "random": {"mixer": "random"},
        "identity": {"mixer": "identity"},
    }
    if base.dim % tokens:  # 14 segments do not divide 768 channels
        del settings["permute"]
    return {name: _of_model(fields) for name, fields in settings.items()}


def _of_model(fields: Fields) -> Fields:
    return {f"model.{name}": value for name, value in fields.items()}


class _Family(typing.NamedTuple):
    """A family as a function of its depth and width.

    Attributes:
      dims: the width must be a multiple of this.
      fields: (depth, dim) -> fields of the variant.
    """

    name: str
    dims: int
    fields: typing.Callable[[int, int], Fields]


def _families(scale: str) -> dict[str, _Family]:
    base = SCALES[scale].variant()
    same = {"patch_size": base.patch_size, "drop_path": base.drop_path}
    half = {**same, "patch_size": base.patch_size // 2}
    tokens = SCALES[scale].image_size // base.patch_size

    def isotropic(depth: int, dim: int) -> Fields:
        return {"depth": depth, "dim": dim, **same}

    def two_stages(depth: int, dim: int) -> Fields:
        """The first stage: a grid twice as fine, a quarter of the blocks, half the width."""
        first = max(1, depth // 4)
        stages = {"later_depths": (depth - first,), "later_dims": (2 * dim,)}
        return {"depth": first, "dim": dim, **stages, **half}

    def vip(depth: int, dim: int) -> Fields:
        whole = {"later_depths": (), "later_dims": (), "segments": tokens}
        return {**isotropic(depth, dim), **whole}

    def deit(depth: int, dim: int) -> Fields:
        heads = {"head_dim": dim // 4} if scale != "imagenet" else {}
        return {**isotropic(depth, dim), **heads}

    def resnet(depth: int, dim: int) -> Fields:
        if scale == "imagenet":
            widths = {"dim": dim, "later_dims": (2 * dim, 4 * dim, 8 * dim)}
            return {**widths, "drop_path": base.drop_path}
        blocks = max(1, depth // 3)
        later = {"later_depths": (blocks, blocks), "later_dims": (2 * dim, 4 * dim)}
        return {"depth": blocks, "dim": dim, **same, "patch_size": 1, **later}

    return {
        "mlp_mixer": _Family("mlp_mixer_s16", 4, isotropic),
        "resmlp": _Family("resmlp_12", 4, isotropic),
        "s2mlp_v2": _Family("s2mlp_v2_small_7", 4, two_stages),
        "vip": _Family("vip_small_14", tokens, vip),
        "as_mlp": _Family("as_mlp_t", 2, two_stages),
        "deit": _Family("deit_ti", 64 if scale == "imagenet" else 4, deit),
        "resnet": _Family("resnet_50", 1, resnet),
    }


def families(scale: str) -> dict[str, Fields]:
    """Returns the settings of whole families, as close as possible to S²-MLP in size."""
    setting, base = SCALES[scale], SCALES[scale].variant()

    def measure(variant: Variant, what: str) -> int:
        cost = variant_cost(variant, setting.image_size, setting.classes, setting.channels)
        return cost.parameters if what == "params" else cost.macs + cost.attention_macs

    settings = {}
    for family_name, family in _families(scale).items():
        for what in ("params", "macs"):
            target = measure(base, what)
            best: tuple[float, Fields] | None = None
            # The depth of S²-MLP, or one block more or less if this fits better.
            for depth in (base.depth, base.depth - 1, base.depth + 1):
                for dim in range(family.dims, 4 * base.dim, family.dims):
                    fields = family.fields(depth, dim)
                    count = measure(get_variant(family.name, **fields), what)
                    error = abs(count / target - 1)
                    if best is None or error < best[0]:
                        best = error, {"name": family.name, **fields}
                    if count > target:
                        break
            assert best is not None
            settings[f"{family_name}={what}"] = _of_model(best[1])
    return settings


def sweep(scale: str = "digits") -> dict[str, Fields]:
    check_scale(scale)
    return mixers(scale) | families(scale)


def table(scale: str = "digits") -> dict[str, typing.Any]:
    return {
        "title": "S²-MLP and its relatives on equal terms",
        "baseline": "a",
        "rows": {},
        "note": "Up to attention: token mixers in S²-MLP's skeleton, at equal width and depth. "
        "Below: families in their own, at the parameters or the multiply-accumulates of (a).",
    }
