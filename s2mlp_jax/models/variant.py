"""What an architecture is: the fields of the one skeleton, and what is allowed in them."""

import dataclasses
import math

from s2mlp_jax.models.axial_shift import AXIAL_BORDERS
from s2mlp_jax.models.layers import INITS, NORMS, drop_path_rates
from s2mlp_jax.models.spatial_shift import BORDERS, group_sizes, parse_pattern

# Mixer -> the fields that it reads, of those that not all do. "bottleneck" is a whole ResNet,
# which has no mixer, and a skeleton of its own.
MIXER_FIELDS: dict[str, tuple[str, ...]] = {
    "shift": ("shift", "border"),
    "depthwise": ("border", "depthwise_init"),
    "token_mlp": ("token_expansion",),
    "token_linear": (),
    "split_shift": ("border", "branches", "fusion"),
    "axial_shift": ("border", "shift_size", "dilation"),
    "permute": ("segments", "branches", "fusion"),
    "attention": ("head_dim",),
    "bottleneck": (),
}

# Mixer -> the branches that it sums, of which a variant may leave some out.
BRANCHES: dict[str, tuple[str, ...]] = {
    "split_shift": ("shift1", "shift2", "identity"),
    "permute": ("height", "width", "channel"),
}

# Of the skeleton, what a ResNet has otherwise, or not at all.
NOT_RESNET = (
    *("norm", "norm_position", "affine_init", "layer_scale", "embed_norm", "final_norm"),
    *("downsample", "pool", "position"),
)

# Mixers that a row of tokens suits: they know no rows and columns.
_GRIDLESS = ("attention", "token_mlp", "token_linear")

_CHOICES: dict[str, tuple[str, ...]] = {
    "mixer": tuple(MIXER_FIELDS),
    "depthwise_init": ("normal", "shift"),
    "fusion": ("split_attention", "mean", "sum"),
    "norm": NORMS,
    "norm_position": ("post", "pre"),
    "downsample": ("embed", "merge"),
    "pool": ("mean", "class_token"),
    "position": ("none", "learned"),
    "init": tuple(INITS),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """An architecture. Every field can be overridden in `create_model` and in a config.

    The defaults are S²-MLP's. What its paper leaves open is marked (open); `docs/fidelity.md`
    gives the reasons, and those of the other papers.

    Raises:
      ValueError: at construction, if a field's value is not allowed.
    """

    depth: int  # blocks, N in the paper; of a pyramid those of its first stage
    dim: int  # channels, c; of a pyramid those of its first stage
    later_depths: tuple[int, ...] = ()  # of a pyramid: blocks of each stage that follows
    later_dims: tuple[int, ...] = ()  # and channels; the grid's sides are halved before each
    expansion: int = 4  # hidden width of the channel MLP over dim, r
    patch_size: int = 16  # pixels, p

    # How tokens talk: a key of MIXER_FIELDS, and what belongs to some of them.
    mixer: str = "shift"
    shift: str = "a"  # Table 7: a..j, none, or directions joined by "+"
    border: str = "keep"  # Algorithm 1: keep; also zero, circular; axial_shift: AXIAL_BORDERS
    depthwise_init: str = "normal"  # or shift: the kernels that make it the spatial shift (a)
    token_expansion: float = 0.5  # hidden width of the token MLP over dim (MLP-Mixer)
    shift_size: int = 5  # chunks of the axial shift (AS-MLP)
    dilation: int = 1  # tokens between their offsets
    branches: str = ""  # joined by "+", out of BRANCHES; "" for all (S²-MLPv2, ViP)
    fusion: str = "split_attention"  # of the branches; or mean, sum
    segments: int = 0  # tokens a side that permute is made for, in the first stage (ViP)
    head_dim: int = 64  # channels a head of attention

    # The skeleton around it.
    norm: str = "layer_norm"  # or affine (ResMLP's), as in the deep variant; group_norm
    norm_position: str = "post"  # x + norm(f(x)), Figure 1; or pre, x + f(norm(x))
    norm_eps: float = 1e-5  # (open) of layer_norm and group_norm
    affine_init: float = 1e-6  # (open) initial scale of affine at the end of a branch
    layer_scale: float = 0.0  # initial scale of each channel at the end of a branch; 0: none
    embed_norm: bool = True  # a norm after the patch embedding, section 3.2
    final_norm: bool = False  # a norm before pooling
    downsample: str = "embed"  # between stages: embed patches of 2x2; or merge, a norm first
    pool: str = "mean"  # over tokens; or class_token, an additional one
    position: str = "none"  # or learned: an embedding is added to the tokens
    init: str = "normal"  # (open) of the weights: a key of layers.INITS
    drop_path: float = 0.1  # (open) DeiT's rate
    drop_path_rule: str = "linear"  # (open) linear in depth, or constant

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"Unknown {name} {getattr(self, name)!r}. Allowed are {', '.join(allowed)}."
                )
        for name in ("depth", "dim", "expansion", "patch_size", "shift_size", "dilation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        later = (*self.later_depths, *self.later_dims)
        if not all(type(number) is int and number > 0 for number in later):
            raise ValueError(
                "later_depths and later_dims must hold integers of at least 1, "
                f"got {self.later_depths} and {self.later_dims}."
            )
        if len(self.later_depths) != len(self.later_dims):
            raise ValueError(
                f"later_depths {self.later_depths} and later_dims {self.later_dims} "
                "must be of the same length, one entry for each stage after the first."
            )
        if self.pool == "class_token" and (self.mixer not in _GRIDLESS or later):
            raise ValueError(
                "pool class_token makes a row of the tokens, so it goes with one stage and the "
                f"mixers {', '.join(_GRIDLESS)}, not with {self.mixer} in {len(self.dims)}."
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}.")
        drop_path_rates(self.drop_path, self.depth, self.drop_path_rule)
        for stage, dim in enumerate(self.dims):
            self._check_mixer(stage, dim)

    def _check_mixer(self, stage: int, dim: int) -> None:
        """Raises a ValueError if the mixer of a stage cannot be made with so many channels."""
        uses = MIXER_FIELDS[self.mixer]
        if "border" in uses:
            borders = tuple(AXIAL_BORDERS) if self.mixer == "axial_shift" else BORDERS
            if self.border not in borders:
                raise ValueError(
                    f"Unknown border {self.border!r} of {self.mixer}. "
                    f"Allowed are {', '.join(borders)}."
                )
        if self.mixer == "shift":
            group_sizes(dim, len(parse_pattern(self.shift)))
        if self.mixer == "split_shift" or self.depthwise_init == "shift":
            group_sizes(dim, 4)
        if self.mixer == "token_mlp" and int(self.token_expansion * dim) < 1:
            raise ValueError(f"token_expansion {self.token_expansion} of {dim} channels is none.")
        if self.mixer in BRANCHES:
            unknown = [name for name in self.branch_names if name not in BRANCHES[self.mixer]]
            if unknown or len(set(self.branch_names)) < len(self.branch_names):
                raise ValueError(
                    f"branches {self.branches!r} of {self.mixer} must be some of "
                    f"{', '.join(BRANCHES[self.mixer])}, each once, joined by '+'."
                )
        if self.mixer == "permute" and self.segments < 1:
            raise ValueError(
                "permute (ViP) is made for one size of the grid: set segments, the tokens a side, "
                "which is the image size over the patch size."
            )
        if self.mixer == "permute" and (
            self.segments >> stage < 1 or dim % (self.segments >> stage)
        ):
            raise ValueError(
                f"The {self.segments >> stage} segments of stage {stage + 1} do not divide its "
                f"{dim} channels."
            )
        if self.mixer == "attention" and (self.head_dim < 1 or dim % self.head_dim):
            raise ValueError(f"head_dim {self.head_dim} does not divide {dim} channels.")
        if self.mixer == "bottleneck" and self.patch_size not in (1, 4):
            raise ValueError(
                f"patch_size {self.patch_size} of a ResNet's stem must be 4 (7x7 convolution and "
                "pooling) or 1 (3x3 convolution, for small images)."
            )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return (self.dim, *self.later_dims)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return (self.depth, *self.later_depths)

    @property
    def stride(self) -> int:
        """Pixels a side of a token of the last stage: what an image's sides must be multiples of.

        A ResNet rounds up, so that only its stem counts.
        """
        if self.mixer == "bottleneck":
            return self.patch_size
        return int(self.patch_size * 2 ** len(self.later_dims))

    def unread(self) -> dict[str, str]:
        """Returns the fields that have no effect in this architecture, and why."""
        reasons = {}
        for field in sorted(set().union(*MIXER_FIELDS.values())):
            if field not in MIXER_FIELDS[self.mixer]:
                readers = [mixer for mixer, fields in MIXER_FIELDS.items() if field in fields]
                reasons[field] = (
                    f"on the token mixer of this model, {self.mixer}; it is a field of "
                    f"{', '.join(readers)}"
                )
        if self.mixer == "bottleneck":
            reasons |= dict.fromkeys(NOT_RESNET, "on a ResNet, which has its own skeleton")
            return reasons
        if (self.norm, self.norm_position) != ("affine", "post"):
            reasons["affine_init"] = "but with norm affine and norm_position post"
        if self.norm == "affine":
            reasons["norm_eps"] = "on norm affine"
        if not self.later_depths:
            reasons["downsample"] = "without further stages (later_depths)"
        return reasons

    @property
    def branch_names(self) -> tuple[str, ...]:
        """The branches that the mixer sums, in order; none for one that has none."""
        return tuple(self.branches.split("+")) if self.branches else BRANCHES.get(self.mixer, ())

    @property
    def bound_to_grid(self) -> str:
        """Which weights fit one size of the grid only; "" for none: any size will do."""
        if self.mixer in ("token_mlp", "token_linear", "permute"):
            return f"the token mixer's ({self.mixer})"
        return "the position embedding's" if self.position == "learned" else ""

    @property
    def not_a_multiple(self) -> str:
        """What is said of an image size that is none of the stride."""
        stages = f" times 2 for each of {len(self.later_dims)} later stages"
        return (
            f"is not a multiple of {self.stride}, the patch size"
            f"{stages if self.stride != self.patch_size else ''}."
        )

    def check_other_size(self, trained: int, image_size: int) -> None:
        """Checks that weights that were trained at one image size (pixels) fit another.

        Raises:
          ValueError: if they do not, or the size is none for this model.
        """
        if self.bound_to_grid and image_size != trained:
            raise ValueError(
                f"image_size {image_size}: this model takes {trained} only, at which it was "
                f"trained, as {self.bound_to_grid} weights depend on the number of tokens."
            )
        self.grids(image_size)

    def grids(self, image_size: int) -> list[int]:
        """Returns the tokens a side of each stage for a square image.

        Raises:
          ValueError: if the image size (pixels) is not a multiple of the stride, or permute is
            made for another grid.
        """
        if image_size % self.stride:
            raise ValueError(f"image_size {image_size} {self.not_a_multiple}")
        grids = [math.ceil(image_size / (self.patch_size * 2**i)) for i in range(len(self.dims))]
        if self.mixer == "permute" and grids[0] != self.segments:
            raise ValueError(
                f"image_size {image_size} gives {grids[0]}x{grids[0]} tokens, and this model is "
                f"made for segments of {self.segments}: set segments to {grids[0]}, or image_size "
                f"to {self.segments * self.patch_size}."
            )
        return grids
