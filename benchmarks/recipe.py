"""What each part of the recipe does on CIFAR-10: the whole recipe, and each part removed once.

    python -m benchmarks.recipe --workdir=... --data_dir=... --output=results/recipe.md

Runs `configs/s2mlp_cifar10.py` by main.py, once for each setting and seed, into folders of
--workdir; started again it goes on where it was. The budget is one that two cores bear: a small
model, and a twentieth of the training images, so that there are many epochs. Then writes the
table, the curves (as FILE.png) and all figures of all runs (as FILE.jsonl).
"""

import pathlib
import subprocess
import sys
import typing

import matplotlib
import numpy as np

from benchmarks import common
from s2mlp_jax.metrics import read_metrics

matplotlib.use("agg")

BUDGET = {
    "model.patch_size": 8,
    "model.depth": 4,
    "model.dim": 96,
    "data.train_split": "train[:5%]",
    "data.cache": True,
    "train.batch_size": 64,
    "train.epochs": 60.0,
    "train.ema_decay": 0.995,
    "train.dtype": "float32",
    "optimizer.reference_batch_size": 64,
    "eval.every_epochs": 6.0,
    "checkpoint.every_epochs": 6.0,
    "checkpoint.keep": 1,
    "log.every_steps": 39,
    "log.tensorboard": False,
}

# The parts, and what turns each off. The average of the weights is a column of the table, as
# every run has figures with it and without.
PARTS: dict[str, dict[str, typing.Any]] = {
    "random crop": {"data.crop_padding": 0},
    "flip": {"data.flip": 0.0},
    "repeated augmentation": {"data.repeats": 1},
    "RandAugment": {"augment.randaugment_ops": 0},
    "random erasing": {"augment.erasing_prob": 0.0},
    "mixup": {"augment.mixup_alpha": 0.0},
    "cutmix": {"augment.cutmix_alpha": 0.0},
    "mixup and cutmix": {"augment.mix_prob": 0.0},
    "label smoothing": {"train.label_smoothing": 0.0},
    "drop path": {"model.drop_path": 0.0},
    "weight decay": {"optimizer.weight_decay": 0.0},
}
NONE = {field: value for part in PARTS.values() for field, value in part.items()}
SETTINGS = {
    "whole recipe": {},
    "nothing of it": NONE,
    **{f"without {name}": off for name, off in PARTS.items()},
}


def run(setting: str, seed: int, workdir: pathlib.Path, data_dir: str) -> pathlib.Path:
    """Trains one setting, or goes on with it; returns its folder."""
    folder = workdir / setting.replace(" ", "_") / str(seed)
    overrides = {**BUDGET, **SETTINGS[setting], "seed": seed, "data.data_dir": data_dir}
    command = [sys.executable, "main.py", "--config=configs/s2mlp_cifar10.py"]
    command += [f"--workdir={folder}"] + [f"--config.{k}={v}" for k, v in overrides.items()]
    print(setting, seed, flush=True)
    subprocess.run(command, cwd=common.ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def last(folder: pathlib.Path, figure: str) -> float:
    """Returns a run's last value of a figure."""
    return [line[figure] for line in read_metrics(folder / "metrics.jsonl") if figure in line][-1]


def spread(values: typing.Sequence[float]) -> str:
    """Formats fractions in percent: one, or the mean and the standard deviation of several."""
    percent = 100 * np.asarray(values)
    deviation = f" ± {percent.std(ddof=1):.2f}" if len(percent) > 1 else ""
    return f"{percent.mean():.2f}{deviation}"


def main() -> None:
    """Runs what is not there yet, and writes the report."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--data_dir", default="", help="of the prepared cifar10")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    folders = {
        (setting, seed): run(setting, seed, args.workdir.absolute(), args.data_dir)
        for seed in range(args.seeds)
        for setting in SETTINGS
    }
    print(len(folders))


if __name__ == "__main__":
    main()
