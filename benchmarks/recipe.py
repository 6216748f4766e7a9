"""Ablation of the recipe on CIFAR-10: the whole recipe, and with each part removed once.

    python -m benchmarks.recipe --workdir=... --data_dir=... --output=results/recipe.md

Trains `configs/s2mlp_cifar10.py` with main.py, once per setting and seed, in folders of --workdir;
when started again, it resumes. The budget is small enough for two cores: a small model, and a
twentieth of the training images, which allows many epochs. Then writes the table, the curves (as
FILE.png) and all figures of all runs (as FILE.jsonl).
"""

import json
import pathlib
import subprocess
import sys
import typing
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex

from benchmarks import common
from s2mlp_jax.saved.files import Folder
from s2mlp_jax.saved.metrics import read_metrics

Lines = list[dict[str, typing.Any]]

BUDGET: dict[str, typing.Any] = {
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

# The parts, with the overrides that turn them off. The weight average is a column of the table
# instead, because every run has figures with and without it.
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
    """Trains or resumes one setting; returns the folder of the run."""
    folder = workdir / setting.replace(" ", "_") / str(seed)
    if any(line.get("train/epoch", 0) >= BUDGET["train.epochs"] for line in read(folder)):
        return folder
    overrides = {**BUDGET, **SETTINGS[setting], "seed": seed, "data.data_dir": data_dir}
    command = [sys.executable, "main.py", "--config=configs/s2mlp_cifar10.py"]
    command += [f"--workdir={folder}"] + [f"--config.{k}={v}" for k, v in overrides.items()]
    print(setting, seed, flush=True)
    subprocess.run(command, cwd=common.ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def read(folder: pathlib.Path) -> Lines:
    """Returns the metrics of a run."""
    return read_metrics(Folder(folder).metrics_file)


def last(lines: Lines, figure: str) -> float:
    """Returns the last value of a figure."""
    return [line[figure] for line in lines if figure in line][-1]


def percent(values: Sequence[float]) -> str:
    """Formats fractions as percent: one value, or mean ± standard deviation of several."""
    deviation = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{deviation}"


def rows(runs: Mapping[str, Sequence[Lines]]) -> list[list[str]]:
    """Returns one table row per setting, with its difference from the whole recipe."""

    def figures(setting: str, figure: str) -> list[float]:
        return [last(lines, figure) for lines in runs[setting]]

    result = []
    for setting in runs:
        row = [setting]
        for figure in ("eval/accuracy_top1", "eval_ema/accuracy_top1"):
            whole = figures("whole recipe", figure)
            here = figures(setting, figure)
            row += [percent(here), f"{100 * (np.mean(here) - np.mean(whole)):+.2f}"]
        row += [f"{np.mean(figures(setting, f)):.3f}" for f in ("eval/loss", "train/loss")]
        result.append(row)
    return result


def draw(runs: Mapping[str, Sequence[Lines]], file: pathlib.Path) -> None:
    """Draws top-1 over the epochs, one line per setting, the mean over the seeds."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    colours = iter(plt.get_cmap("Dark2").colors + plt.get_cmap("tab10").colors)  # type: ignore[attr-defined]
    last_epoch, ends = BUDGET["train.epochs"], []
    for setting, seeds in runs.items():
        evaluations = [[line for line in lines if "eval/count" in line] for lines in seeds]
        steps = np.asarray([line["step"] for line in evaluations[0]])
        top1 = np.mean([[line["eval/accuracy_top1"] for line in e] for e in evaluations], axis=0)
        bold = {"whole recipe": "black", "nothing of it": "tab:red"}
        colour = to_hex(bold.get(setting) or next(colours))
        width = 2.5 if setting in bold else 1.3
        axes.plot(steps * last_epoch / steps[-1], 100 * top1, color=colour, linewidth=width)
        ends.append((100 * float(top1[-1]), setting, colour))
    # A name at the end of each line, moved where two names would overlap.
    ends.sort()
    low, high = axes.get_ylim()
    places: list[float] = []
    for value, _, _ in ends:
        places.append(max(value, places[-1] + 0.045 * (high - low)) if places else value)
    too_high = np.mean(places) - np.mean([value for value, _, _ in ends])
    for (value, setting, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            setting,
            (last_epoch, value),
            (1.06 * last_epoch, place - too_high),
            color=colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5)},
        )
    axes.set_xlabel("epochs (of 2,500 images)")
    axes.set_ylabel("top-1 on 10,000 test images, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def report(runs: Mapping[str, Sequence[Lines]], commit: str, output: str | None) -> None:
    """Publishes the table; with --output, also the curves and all figures.

    Args:
      runs: setting -> the metrics of its runs, by seed.
      commit: git commit of the runs.
      output: path of the Markdown file, or None.
    """
    seeds = len(runs["whole recipe"])
    columns = ["CIFAR-10 (JPEG)", "top-1, %", "less whole"]
    columns += ["top-1 of the average, %", "less whole", "test loss", "training loss"]
    budget = " ".join(f"--config.{field}={value}" for field, value in BUDGET.items())
    parts = [
        common.header("The recipe on CIFAR-10, each part removed once"),
        f"Trained at commit {commit}; {seeds} seed{'s' if seeds > 1 else ''}, the same in every "
        "setting. Each run is "
        f"`python main.py --config=configs/s2mlp_cifar10.py {budget}` and what removes the part.",
        common.table(columns, rows(runs)),
    ]
    if output:
        picture = pathlib.Path(output).with_suffix(".png")
        draw(runs, picture)
        parts.append(f"![top-1 over the epochs]({picture.name})")
        with picture.with_suffix(".jsonl").open("w") as file:
            for setting, of_seeds in runs.items():
                for seed, lines in enumerate(of_seeds):
                    for line in lines:
                        file.write(json.dumps({"setting": setting, "seed": seed, **line}) + "\n")
    common.publish(parts, output)


def main() -> None:
    """Trains the runs that are not finished, and writes the report."""
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--data_dir", default="", help="folder of the prepared cifar10")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    runs: dict[str, list[Lines]] = {setting: [] for setting in SETTINGS}
    for seed in range(args.seeds):
        for setting, of_seeds in runs.items():
            of_seeds.append(read(run(setting, seed, args.workdir.absolute(), args.data_dir)))
    environment = Folder(args.workdir / "whole_recipe" / "0").environment_file
    report(runs, json.loads(environment.read_text())["git_commit"], args.output)


if __name__ == "__main__":
    main()
