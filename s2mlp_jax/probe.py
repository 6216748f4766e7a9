"""Evaluates a model's frozen features on a data set: nearest neighbours and a linear probe.

  python -m s2mlp_jax.probe MODEL digits
  python -m s2mlp_jax.probe MODEL folder:/my/images --eval_split=val

MODEL is the folder of a run of main.py, or one that `python -m s2mlp_jax.export` wrote. Features
are the input of its head, for images preprocessed as in the evaluation; scikit-learn fits on them.
Exit codes: 0 done; 2 bad input.
"""

import json
import os
import sys
import warnings
from collections.abc import Sequence

import numpy as np
from absl import logging

from s2mlp_jax.cli import ExitCode, Parser, command
from s2mlp_jax.data import sources
from s2mlp_jax.data.names import folder_of
from s2mlp_jax.data.pipeline import eval_batches
from s2mlp_jax.escape import printable
from s2mlp_jax.saved.model_options import add_model_options, load_model
from s2mlp_jax.saved.pretrained import Pretrained, compiled


def features(
    pretrained: Pretrained, split: sources.Split, batch_size: int = 256, num_threads: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pooled features of a split's images, (n, c) float32, and their labels, (n,)."""
    pooled, preprocess = compiled(pretrained, "pooled"), pretrained.preprocess
    split = split.read_with(preprocess.channels)  # grey or colour, as the model expects
    batch_size = min(batch_size, len(split))
    positions = np.arange(batch_size)
    found, labels = [], []
    for batch in eval_batches(split, preprocess.crops, batch_size, positions, num_threads):
        found.append(pooled(batch["image"])[batch["mask"]])
        labels.append(batch["label"][batch["mask"]])
    return np.concatenate(found), np.concatenate(labels)


def nearest_neighbors(
    fit: tuple[np.ndarray, np.ndarray], judge: tuple[np.ndarray, np.ndarray], neighbors: int = 20
) -> float:
    """Returns the accuracy of a nearest-neighbour vote by the cosine distance of features.

    Args:
      fit: features and labels to fit on, as `features` returns them.
      judge: features and labels to evaluate on.
      neighbors: number of neighbours that vote, at most the number of fitted images; each vote is
        weighted by the inverse of the distance.
    """
    from sklearn.neighbors import KNeighborsClassifier  # here, as the import is slow

    neighbors = min(neighbors, len(fit[0]))
    classifier = KNeighborsClassifier(neighbors, metric="cosine", weights="distance")
    return float(classifier.fit(*fit).score(*judge))


def linear_probe(
    fit: tuple[np.ndarray, np.ndarray],
    judge: tuple[np.ndarray, np.ndarray],
    inverse_penalty: float = 1.0,
) -> float:
    """Returns the accuracy of a logistic regression on standardised features.

    Args:
      fit: features and labels to fit on, as `features` returns them.
      judge: features and labels to evaluate on.
      inverse_penalty: scikit-learn's C, the inverse of the regularization strength.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=1000)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough after 1000 steps
        return float(classifier.fit(*fit).score(*judge))


def _parser() -> Parser:
    parser = Parser(prog="python -m s2mlp_jax.probe", description=__doc__)
    add_model_options(parser)
    parser.add_argument("data", metavar="DATASET", help="data set, as in config.data.name")
    parser.add_argument(
        "--train_split", default="train", metavar="SPLIT", help="split to fit on; default: train"
    )
    parser.add_argument(
        "--eval_split",
        default="",
        metavar="SPLIT",
        help="split to evaluate on; default: val of a folder, else test",
    )
    parser.add_argument(
        "--data_dir", default="", metavar="FOLDER", help="folder of prepared data sets"
    )
    parser.add_argument("--neighbors", type=int, default=20, metavar="K")
    parser.add_argument("--inverse_penalty", type=float, default=1.0, metavar="C")
    parser.add_argument("--batch_size", type=int, default=256, metavar="N")
    parser.add_argument("--output", default="", metavar="FILE", help="JSON file for the results")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = _parser().parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # Orbax logs a lot
    for name in ("neighbors", "inverse_penalty", "batch_size"):
        if getattr(flags, name) <= 0:
            raise ValueError(f"--{name} must be greater than 0, got {getattr(flags, name)}.")
    if flags.output and not os.path.isdir(os.path.dirname(os.path.abspath(flags.output))):
        raise ValueError(f"--output={flags.output}: there is no such folder.")
    flags.eval_split = flags.eval_split or ("val" if folder_of(flags.data) else "test")
    pretrained = load_model(flags)
    splits = [
        sources.open_split(flags.data, split, flags.data_dir)
        for split in (flags.train_split, flags.eval_split)
    ]
    fit, judge = (features(pretrained, split, flags.batch_size) for split in splits)
    if len(np.unique(fit[1])) < 2:
        raise ValueError(f"{splits[0].name} has images of one class only.")
    names = [printable(split.name) for split in splits]
    print(f"fit on   {names[0]}: {len(fit[0]):,} images, {fit[0].shape[1]} features of each")
    flags.neighbors = min(flags.neighbors, len(fit[0]))
    print(f"judge by {names[1]}: {len(judge[0]):,} images", flush=True)
    result = {
        "nearest_neighbors": nearest_neighbors(fit, judge, flags.neighbors),
        "linear_probe": linear_probe(fit, judge, flags.inverse_penalty),
    }
    print(f"{flags.neighbors} nearest neighbours  top-1 {result['nearest_neighbors']:.2%}")
    print(f"linear probe  top-1 {result['linear_probe']:.2%}")
    if flags.output:
        told = {"model": flags.model, "fit": splits[0].name, "judge": splits[1].name}
        with open(flags.output, "w", encoding="utf-8") as file:
            json.dump({**told, "count": len(judge[0]), **vars(flags), **result}, file, indent=2)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
