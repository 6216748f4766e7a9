"""The plots of a report: results per setting and seed, the paper's results, and the curves."""

import statistics
import typing

from s2mlp_jax.report.runs import Run, Study
from s2mlp_jax.report.statistics import spread

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, safe for colour-blind readers; with four line styles: 28 settings.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D")
_QUIET = "#8a94a0"


def settings(study: Study) -> "Figure":
    """Draws top-1 per setting: each seed, mean ± standard deviation, and the paper's value."""
    from matplotlib.figure import Figure

    names = list(study.settings)
    printed = any(setting["paper"] for setting in study.settings.values())
    figure = Figure(
        figsize=(8.0 if printed else 5.5, 1.2 + 0.36 * len(names)), layout="constrained"
    )
    panels = figure.subplots(1, 1 + printed, sharey=True, squeeze=False)[0]
    ours = panels[0]
    for y, name in enumerate(names):
        values = [100 * run.figure("accuracy_top1") for run in study.done(name)]
        ours.plot(values, [y] * len(values), "o", color=_QUIET, markersize=4, alpha=0.7, zorder=2)
        if values:
            ours.errorbar(
                statistics.fmean(values),
                y,
                xerr=spread(values),
                fmt="o",
                color=_COLOURS[0],
                capsize=3,
                zorder=3,
            )
    ours.set_title("measured here", fontsize="medium")
    if printed:
        for y, name in enumerate(names):
            row = study.settings[name]["paper"]
            if row:
                panels[1].plot(row["top1"], y, "D", color=_COLOURS[1], markersize=6)
        panels[1].set_title("the paper (ImageNet100)", fontsize="medium")
    for panel in panels:
        panel.set_yticks(range(len(names)), names)
        panel.set_xlabel("top-1, %")
        panel.grid(axis="x", color="#e3e7eb")
        panel.grid(axis="y", color="#f0f2f4")
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(length=0)
    ours.set_ylim(len(names) - 0.4, -0.6)  # the first setting on top
    return figure


def curves(study: Study) -> "Figure":
    """Draws test top-1 and training loss over the epochs: per setting, the mean over seeds."""
    from matplotlib.figure import Figure

    shown = [name for name in study.settings if study.done(name)]
    height = max(4.2, 0.6 + 0.21 * len(shown))  # inches; the legend has to fit
    figure = Figure(figsize=(9.0, height), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for i, name in enumerate(shown):
        style = {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": ("-", "--", ":", "-.")[i // len(_COLOURS) % 4],
            "linewidth": 1.6,
        }
        runs = study.done(name)
        figure_name = f"{runs[0].prefix}/accuracy_top1"
        _mean_curve(accuracy, runs, figure_name, 100.0, label=name, marker=".", **style)
        _mean_curve(loss, runs, "train/loss", 1.0, **style)
    accuracy.set_ylabel("test top-1, %")
    loss.set_ylabel("training loss")
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch")
        axes.grid(color="#e3e7eb")
        axes.spines[["top", "right"]].set_visible(False)
    if shown:
        figure.legend(
            *accuracy.get_legend_handles_labels(),
            loc="outside right center",
            frameon=False,
            fontsize="small",
        )
    return figure


def trade_offs(study: Study) -> "Figure":
    """Draws top-1 of every setting (mean ± standard deviation) against each cost."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    measured = study.speed["settings"]
    shown = [name for name in study.settings if study.done(name) and name in measured]

    def of_result(figure: str) -> list[float]:
        return [study.done(name)[0].result[figure] for name in shown]

    def of_speed(figure: str, scale: float = 1.0) -> list[float]:
        return [scale * measured[name][figure] for name in shown]

    costs = {
        "parameters": of_result("parameters"),
        "multiply-accumulates per image": of_result("macs"),
        "training, images/s": of_speed("train_images_per_second"),
        "inference, images/s": of_speed("eval_images_per_second"),
        "memory of a training step, MiB": of_speed("memory_bytes", 2**-20),
    }
    figure = Figure(figsize=(11.0, 8.0), layout="constrained")
    panels = figure.subplots(2, 3).flat
    accuracies = [[100 * run.figure("accuracy_top1") for run in study.done(n)] for n in shown]
    for panel, (label, values) in zip(panels, costs.items(), strict=False):
        for i, (value, accuracy) in enumerate(zip(values, accuracies, strict=True)):
            panel.errorbar(
                value,
                statistics.fmean(accuracy),
                yerr=spread(accuracy),
                fmt=_MARKERS[i // len(_COLOURS) % len(_MARKERS)],
                color=_COLOURS[i % len(_COLOURS)],
                markersize=6,
                capsize=2,
                linewidth=1,
                label=shown[i],
            )
        panel.set_xlabel(label)
        panel.set_ylabel("top-1, %")
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 150k, 2.6M
        panel.grid(color="#e3e7eb")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    rest = figure.axes[len(costs)]
    rest.set_axis_off()
    handles = figure.axes[0].get_legend_handles_labels()
    rest.legend(*handles, loc="center", ncols=2, frameon=False, fontsize="small")
    return figure


def _mean_curve(
    axes: "Axes", runs: list[Run], name: str, scale: float, **style: typing.Any
) -> None:
    """Plots the mean over the runs at the epochs that all runs have."""
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for epoch, value in run.curve(name):
            by_epoch.setdefault(round(epoch, 6), []).append(scale * value)
    whole = [(e, statistics.fmean(v)) for e, v in sorted(by_epoch.items()) if len(v) == len(runs)]
    axes.plot([e for e, _ in whole], [v for _, v in whole], **style)
