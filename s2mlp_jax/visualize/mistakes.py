"""Misclassified images of a checkpoint, the most confident mistakes first."""

import typing

import ml_collections
import numpy as np

from s2mlp_jax.train.restore import restore_run
from s2mlp_jax.visualize.canvas import QUIET, new_figure, shorten, show_image
from s2mlp_jax.visualize.predictions import eval_image, predict
from s2mlp_jax.visualize.subject import of_run

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 8


def errors(
    workdir: str,
    checkpoint: str = "latest",
    count: int = 24,
    config: ml_collections.ConfigDict | None = None,
) -> "Figure":
    """Draws misclassified images of the evaluation split.

    Each image is labelled with its true class, the predicted class with its probability, and its
    index, which `features` accepts.

    Args:
      workdir: as in `restore_run`.
      checkpoint: as in `restore_run`.
      config: as in `restore_run`.
      count: maximum number of images; those with the largest probability of the wrong class are
        drawn.

    Raises:
      ValueError: as `restore_run` does, or if count is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    restored = restore_run(workdir, checkpoint, config)
    run, found = restored.run, predict(restored)
    wrong = np.flatnonzero(found.predicted != found.label)
    first = wrong[np.argsort(-found.probability[wrong], kind="stable")][:count]
    rows = max(-(-len(first) // _COLUMNS), 1)
    columns = max(-(-len(first) // rows), 3)
    figure = new_figure(1.5 * columns + 0.4, 2.15 * rows + 0.9)
    of_all = f" of {len(wrong):,}" if len(first) < len(wrong) else ""
    figure.suptitle(
        f"{len(first)}{of_all} mistakes, the most confident first\n{found.accuracy()}\n"
        f"{of_run(workdir, restored).name}; {run.eval_split.name}",
        fontsize=11,
    )
    if not len(first):
        figure.text(0.5, 0.4, "No image is taken for another class.", ha="center", color=QUIET)
    names = run.eval_split.class_names
    for i, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i >= len(first):
            ax.set_axis_off()
            continue
        at = first[i]
        show_image(ax, eval_image(run, int(found.index[at]))[0])
        true, said = (shorten(names[which[at]]) for which in (found.label, found.predicted))
        ax.set_title(f"true: {true}\nsays: {said}, {found.probability[at]:.0%}", fontsize=9)
        ax.set_xlabel(f"index {found.index[at]}", fontsize=7, color=QUIET, labelpad=2)
    return figure
