"""The parts of the benchmark, their order and their time limits."""

import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from typing import Any

# A row of a table: {"name": ..., column: figure, ...}.
Record = dict[str, object]

MODELS = (
    *("s2mlp_wide", "s2mlp_deep", "mlp_mixer_b16", "resmlp_24", "deit_s", "resnet_50"),
    *("s2mlp_v2_small_7", "vip_small_7", "as_mlp_t"),
)
FIRST = MODELS[:2]  # the paper's models: measured first, and compared with PyTorch


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes of the measurements.

    Attributes:
      on_cpu: True for the small sizes of a CPU.
      batch_size: images per step of the large models.
      depth: maximum number of blocks per stage; 0 for all.
      dtype: compute dtype.
      seconds: duration of each measurement of a figure, one per round.
      rounds: number of rounds; the median is reported.
      models: names of the models of the parts "steps", "torch" and "against"; () for the
        defaults of each part.
      against: folders with other copies of this repository.
    """

    on_cpu: bool
    batch_size: int
    depth: int
    dtype: str
    seconds: float
    rounds: int
    models: tuple[str, ...] = ()
    against: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the options as JSON, for `from_json` in another process."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "Options":
        """Returns the options from the output of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        fields |= {name: tuple(fields[name]) for name in ("models", "against")}
        return Options(**fields)


def options_for(
    platform: str, batch_size: int, models: Sequence[str], against: Sequence[str]
) -> Options:
    """Returns the sizes for a device.

    Args:
      platform: jax's name of the platform, such as "cpu" or "gpu".
      batch_size: images per step; 0 for the default.
      models: as in `Options`.
      against: as in `Options`.
    """
    chosen = {"models": tuple(models), "against": tuple(against)}
    if platform == "cpu":
        return Options(True, batch_size or 2, 1, "float32", 0.2, 3, **chosen)
    return Options(False, batch_size or 512, 0, "bfloat16", 0.5, 5, **chosen)


@dataclasses.dataclass(frozen=True)
class Part:
    """One table of the report.

    Attributes:
      title: title of the table.
      note: how the figures were measured.
      limit: time limit of one job on an accelerator, in seconds.
      needs: required packages besides jax and flax; the part is skipped if one is missing.
      names: names of the jobs.
    """

    title: str
    note: str
    limit: float
    needs: tuple[str, ...] = ()
    names: tuple[str, ...] = ("",)


_LOOP = ("optax", "ml_collections", "PIL", "tensorflow_datasets", "grain", "orbax.checkpoint")
_STEP = (
    "A training step is forward pass, cross-entropy, backward pass and AdamW on images that stay "
    "on the device, without drop path and augmentation. MFU: operations of the model's products "
    "(2 per multiply-accumulate; 3 times the forward pass in training) over the device's peak in "
    "bfloat16. Temporaries: as XLA lays the step out. Peak: of the process so far."
)

PARTS: dict[str, Part] = {
    "against": Part(
        "This copy against another",
        "The loss of a batch and its gradient, without optimizer, a process per copy, by turns. "
        "Time and memory are ratios, here over there: below 1, this copy is better.",
        200,
        ("optax",),
    ),
    "products": Part(
        "Matrix products alone",
        "TFLOP/s of the products of the models' linear layers: forward, gradient of the input, "
        "gradient of the weights. No model can be faster.",
        60,
    ),
    "steps": Part("Training and inference", _STEP, 100, ("optax",), FIRST),
    "recipe": Part(
        "The whole recipe's step",
        "`configs/s2mlp_wide.py` (on a CPU `s2mlp_cifar10.py`) with RandAugment, erasing, mixing, "
        "drop path and the average of the weights, against the same step without the "
        "augmentation, by turns.",
        90,
        ("optax", "ml_collections", "PIL"),
    ),
    "loop": Part(
        "The loop against its step",
        "Images per second of `train` with its input pipeline, without compiling and evaluating; "
        "of the same compiled step on one batch that stays on the device, by turns; and the "
        "milliseconds per step that `main.py --plan` forecasts.",
        90,
        _LOOP,
        ("digits", "cifar"),
    ),
    "together": Part(
        "Runs as one program",
        "Milliseconds for one step of every run of `configs/s2mlp_digits.py`, one after the other "
        "(the first one's step times the number of runs) and stacked into one program.",
        90,
        _LOOP,
    ),
    "torch": Part(
        "The same models in PyTorch",
        "torch.compile (on a CPU without its compiler, which takes minutes), autocast and the "
        "fused AdamW on the same sizes. Peak: of the process so "
        "far, all included.",
        150,
        ("torch", "timm"),
        FIRST,
    ),
    "resume": Part(
        "Resuming",
        "A small run on the digits, killed with SIGKILL and started again, against the same run "
        "undisturbed; XLA's operations are deterministic. Equal: all digits of the last "
        "evaluation.",
        120,
        (*_LOOP, "sklearn"),
    ),
    "others": Part("Training and inference of the relatives", _STEP, 90, ("optax",), MODELS[2:]),
}
# Part -> module with its function `measure`, where the names differ.
MODULES = {"torch": "torch_steps", "others": "steps"}


def limit(part: str, options: Options) -> float:
    """Returns the time limit of a job in seconds; longer on a CPU, which is often shared."""
    return PARTS[part].limit * (3 if options.on_cpu else 1)


def missing(part: str) -> list[str]:
    """Returns the required packages of a part that are not installed."""

    def there(package: str) -> bool:
        try:
            return importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:  # orbax, the parent of orbax.checkpoint, is missing
            return False

    return [package for package in PARTS[part].needs if not there(package)]


def jobs(parts: Sequence[str], options: Options) -> Iterator[tuple[str, str]]:
    """Yields (part, name) of every job, the most important first.

    Args:
      parts: parts in the order to run them; () for all, with "against" only if a folder is given.
      options: sizes, models and folders.

    Raises:
      ValueError: for an unknown part, or "against" without a folder.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"Unknown part {unknown[0]!r}. Allowed are {', '.join(PARTS)}.")
    if "against" in parts and not options.against:
        raise ValueError("The part against needs --against=FOLDER, another copy to compare with.")
    for part in parts or PARTS:
        names = PARTS[part].names
        if part == "against":
            chosen = options.models or FIRST
            names = tuple(f"{model},{folder}" for folder in options.against for model in chosen)
        elif part in ("steps", "torch", "others") and options.models:
            names = options.models if part != "others" else ()
        for name in names:
            yield part, name
