"""Draws pictures of models, data and predictions as PNG, SVG or PDF (by the file's ending).

  python -m s2mlp_jax.visualize overview --output=overview.png
  python -m s2mlp_jax.visualize shift a --output=shift.png
  python -m s2mlp_jax.visualize receptive-field --model=s2mlp_wide --shift=e --output=e.png
  python -m s2mlp_jax.visualize augment --images=FOLDER --output=augment.png
  python -m s2mlp_jax.visualize features --workdir=RUN --index=3 --output=features.png
  python -m s2mlp_jax.visualize confusion --workdir=RUN --output=confusion.pdf
  python -m s2mlp_jax.visualize errors --workdir=RUN --checkpoint=best --output=errors.png

`python -m s2mlp_jax.visualize PICTURE --help` lists the options of a picture.
"""

import argparse
import typing
from collections.abc import Callable, Sequence

from absl import logging

from s2mlp_jax import config as config_lib
from s2mlp_jax.cli import ExitCode, Parser, command
from s2mlp_jax.models import BORDERS, list_models
from s2mlp_jax.saved.model_options import add_import_option
from s2mlp_jax.visualize.augmentations import augment, load_images
from s2mlp_jax.visualize.block_features import features
from s2mlp_jax.visualize.canvas import check_output, save
from s2mlp_jax.visualize.confusion_matrix import confusion
from s2mlp_jax.visualize.mistakes import errors
from s2mlp_jax.visualize.overview import overview
from s2mlp_jax.visualize.receptive_fields import receptive_field
from s2mlp_jax.visualize.shift_patterns import shift

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Draws one picture; returns the exit code."""
    flags = _parser().parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    try:
        check_output(flags.output)  # fail before the work, not after it
        save(flags.draw(flags), flags.output)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ValueError(
            f"Pictures need {package}: pip install {package} -c constraints.txt"
        ) from error
    print(f"Wrote {flags.output}")
    return ExitCode.DONE


def _parser() -> Parser:
    parser = Parser(prog="python -m s2mlp_jax.visualize", description=__doc__)
    pictures = parser.add_subparsers(required=True, metavar="PICTURE")

    def add(
        name: str, draw: "Callable[[argparse.Namespace], Figure]", about: str
    ) -> argparse.ArgumentParser:
        picture = pictures.add_parser(name, help=about, description=about)
        picture.add_argument("--output", required=True, metavar="FILE", help="PNG, SVG or PDF")
        picture.set_defaults(draw=draw)
        return picture

    def add_run(picture: argparse.ArgumentParser, required: bool) -> None:
        picture.add_argument("--workdir", default="", required=required, help="folder of a run")
        picture.add_argument("--checkpoint", default="latest", help="latest, best, or a step")
        add_import_option(picture)

    add("overview", lambda flags: overview(), "the block, the shift, and what a patch sees")

    new = add("shift", _draw_shift, "a shift pattern: arrows, kernels, borders")
    new.add_argument("pattern", nargs="?", default="all", help="a, ..., right+stay; all by default")
    new.add_argument("--border", default="keep", help=", ".join(BORDERS))
    new.add_argument(
        "--channels", type=int, default=768, help="number of channels that are divided into groups"
    )

    new = add(
        "receptive-field", _draw_receptive_field, "what the centre token sees, block by block"
    )
    new.add_argument("--model", default="s2mlp_wide", help=", ".join(list_models()))
    new.add_argument("--shift", help="shift pattern; default: the model's own")
    new.add_argument("--border", help="border; default: the model's own")
    new.add_argument("--depth", type=int, help="number of blocks; default: the model's own")
    new.add_argument("--dim", type=int, help="number of channels; default: the model's own")
    new.add_argument("--grid", type=int, help="tokens per side; default: 14, or the run's own")
    new.add_argument("--seed", type=int, default=0, help="seed of weights and noise")
    add_run(new, required=False)

    new = add("augment", _draw_augment, "what training does to images, one row per operation")
    new.add_argument(
        "--images", default="", metavar="FOLDER", help="folder of images; default: two photographs"
    )
    new.add_argument(
        "--config", default="configs/s2mlp_wide.py", help="config whose recipe is drawn"
    )
    new.add_argument("--seed", type=int, default=0)

    new = add("features", _draw_features, "what the blocks make of one image")
    add_run(new, required=False)
    new.add_argument(
        "--config", default="", help="config of an untrained model, instead of --workdir"
    )
    which = new.add_mutually_exclusive_group()
    which.add_argument("--image", default="", metavar="FILE", help="an image of your own")
    which.add_argument(
        "--index", type=int, default=0, help="index of an image in the evaluation split"
    )

    new = add("confusion", _draw_confusion, "which classes a checkpoint takes for which")
    add_run(new, required=True)

    new = add("errors", _draw_errors, "images that a checkpoint gets wrong")
    add_run(new, required=True)
    new.add_argument("--count", type=int, default=24, help="largest number of images")
    return parser


def _draw_shift(flags: argparse.Namespace) -> "Figure":
    return shift(flags.pattern, flags.border, flags.channels)


def _draw_receptive_field(flags: argparse.Namespace) -> "Figure":
    return receptive_field(
        flags.model,
        shift=flags.shift,
        border=flags.border,
        depth=flags.depth,
        dim=flags.dim,
        grid=flags.grid,
        seed=flags.seed,
        workdir=flags.workdir,
        checkpoint=flags.checkpoint,
    )


def _draw_augment(flags: argparse.Namespace) -> "Figure":
    config = config_lib.load_config(flags.config)
    return augment(config, load_images(flags.images), flags.seed)


def _draw_features(flags: argparse.Namespace) -> "Figure":
    if flags.workdir and flags.config:
        raise ValueError("Give either --workdir or --config: a run has its own.")
    config = config_lib.load_config(flags.config) if flags.config else None
    return features(flags.workdir, flags.checkpoint, config, flags.image, flags.index)


def _draw_confusion(flags: argparse.Namespace) -> "Figure":
    return confusion(flags.workdir, flags.checkpoint)


def _draw_errors(flags: argparse.Namespace) -> "Figure":
    return errors(flags.workdir, flags.checkpoint, flags.count)
