"""The confusion matrix of a checkpoint."""

import typing

import ml_collections
import numpy as np

from s2mlp_jax.train.restore import restore_run
from s2mlp_jax.visualize.canvas import QUIET, new_figure, shorten
from s2mlp_jax.visualize.predictions import Predictions, predict
from s2mlp_jax.visualize.subject import of_run

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 40  # classes; with more, names and numbers are too small to read
_SHARES = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)  # ticks of the colour bar


def confusion(
    workdir: str, checkpoint: str = "latest", config: ml_collections.ConfigDict | None = None
) -> "Figure":
    """Draws the confusion matrix of the evaluation split (rows: true, columns: predicted).

    Uses the averaged parameters if the run has them.

    Args:
      workdir: as in `restore_run`.
      checkpoint: as in `restore_run`.
      config: as in `restore_run`.

    Raises:
      ValueError: as `restore_run` does.
    """
    restored = restore_run(workdir, checkpoint, config)
    split = restored.run.eval_split
    predictions = predict(restored)
    counts = confusion_counts(predictions, split.num_classes)
    name = of_run(workdir, restored).name
    return _page(counts, split.class_names, f"{predictions.accuracy()}\n{name}; {split.name}")


def confusion_counts(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Returns the number of images per (true, predicted) class: (classes, classes) int."""
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (predictions.label, predictions.predicted), 1)
    return counts


def _page(counts: np.ndarray, names: typing.Sequence[str], title: str) -> "Figure":
    classes = len(counts)
    names = [shorten(name, 1000) for name in names]
    named = classes <= _MOST_NAMED
    side = min(max(3.2, 0.42 * classes), 9.0) if named else 7.5
    figure = new_figure(side + 2.4, side + 1.6)
    ax = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # The square root makes a single image among many visible.
    drawn = ax.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    if named:
        crowded = max(map(len, names)) > 3
        ax.set_xticks(range(classes), names, rotation=90 if crowded else 0, fontsize=9)
        ax.set_yticks(range(classes), names, fontsize=9)
        size = 9 if side / classes > 0.3 else 6
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if share[row, column] > 0.3 else "black"
                ax.text(column, row, count, color=ink, fontsize=size, ha="center", va="center")
    bar = figure.colorbar(drawn, ax=ax, shrink=0.8, ticks=[share**0.5 for share in _SHARES])
    bar.ax.set_yticklabels([f"{share:.0%}" for share in _SHARES], fontsize=8)
    bar.set_label("of the true class's images", fontsize=9, color=QUIET)
    return figure
