"""Options of commands that use a trained model, and loading of the chosen model."""

import argparse
import typing

from s2mlp_jax.config import load_module
from s2mlp_jax.options import DTYPES
from s2mlp_jax.saved.pretrained import WHICH, Pretrained, load


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint and --weights, which select the weights of a run, and --import."""
    parser.add_argument(
        "--checkpoint",
        default="",
        metavar="STEP",
        help="checkpoint of a run: latest (default), best, or a step",
    )
    parser.add_argument(
        "--weights", default=WHICH[0], choices=WHICH, help="weights of a run: average, or last"
    )
    add_import_option(parser)


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Adds --import, for code that a saved model needs but does not hold."""
    parser.add_argument(
        "--import",
        action=_Import,
        metavar="FILE",
        help="Python file to import first, such as one that registers a token mixer",
    )


class _Import(argparse.Action):
    """Imports the file that an option names."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: typing.Any,
        option_string: str | None = None,
    ) -> None:
        load_module(values)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL and the options for loading it."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--image_size",
        type=int,
        metavar="PIXELS",
        help="image size; default: that of the training",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="dtype of the computation; default: that of the evaluation"
    )
    add_checkpoint_options(parser)


def load_model(flags: argparse.Namespace) -> Pretrained:
    """Loads the model selected by the options of `add_model_options`.

    Raises:
      ValueError: as in `s2mlp_jax.load`.
    """
    dtype = DTYPES[flags.dtype] if flags.dtype else None
    return load(flags.model, flags.image_size, flags.checkpoint, flags.weights, dtype)
