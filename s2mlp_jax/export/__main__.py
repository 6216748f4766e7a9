"""Exports a model to a folder or to other programs; converts weights from and to timm.

  python -m s2mlp_jax.export MODEL OUT                      # one folder: s2mlp_jax.load, predict
  python -m s2mlp_jax.export MODEL OUT --format=stablehlo   # or onnx, torch: without this package
  python -m s2mlp_jax.export --from-torch=FILE --model=mlp_mixer_b16 --output=OURS.safetensors
  python -m s2mlp_jax.export --to-torch=MODEL --output=FILE

MODEL is the folder of a run of main.py, or one that this command wrote; OUT is a new folder. Before
OUT is created, the exported model is run on images and its logits are compared with the model's.
FILE is a state dict with timm's names, as .safetensors or PyTorch's .pt, .pth or .bin. Exit codes:
0 done; 2 bad input; 3 what was written computes something else than the model.
"""

import argparse
import sys
import typing
from collections.abc import Sequence

from absl import logging

from s2mlp_jax.cli import ExitCode, Parser, command, parse_overrides
from s2mlp_jax.export.export_model import FORMATS, export_model
from s2mlp_jax.export.model_card import LICENSE
from s2mlp_jax.export.timm_files import export_weights, import_weights
from s2mlp_jax.saved.arrays import flatten
from s2mlp_jax.saved.model_options import add_checkpoint_options


def _parser() -> Parser:
    parser = Parser(
        prog="python -m s2mlp_jax.export",
        description=__doc__,
        epilog="--model.FIELD=VALUE, with --model, changes a field of the model.",
    )
    parser.add_argument("source", nargs="?", default="", metavar="MODEL")
    parser.add_argument("folder", nargs="?", default="", metavar="OUT")
    parser.add_argument("--format", default="folder", choices=FORMATS)
    add_checkpoint_options(parser)
    parser.add_argument(
        "--image_size",
        type=int,
        metavar="PIXELS",
        help="image size; default: that of the training, for FILE 224",
    )
    parser.add_argument(
        "--images",
        default="",
        metavar="PATH",
        help="image, or folder of images, for the comparison; default: two of scikit-learn's",
    )
    parser.add_argument(
        "--license",
        default=LICENSE,
        metavar="NAME",
        help="license of the weights, for the model card",
    )
    timm = parser.add_argument_group("timm's weights")
    way = timm.add_mutually_exclusive_group()
    way.add_argument(
        "--from-torch", metavar="FILE", help="state dict to convert to this package's format"
    )
    way.add_argument(
        "--to-torch", metavar="MODEL_OR_FILE", help="weights to convert to PyTorch's names"
    )
    timm.add_argument("--output", default="", metavar="FILE")
    timm.add_argument(
        "--model", default="", metavar="NAME", help="model that the weights in FILE are of"
    )
    timm.add_argument("--num_classes", type=int, metavar="N", help="classes of FILE; default 1000")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Exports or converts one model; returns the exit code."""
    flags, rest = _parser().parse_known_intermixed_args(arguments)
    logging.set_verbosity(logging.ERROR)  # Orbax logs a lot
    fields = parse_overrides(rest, "--model.")
    if flags.from_torch or flags.to_torch:
        _convert(flags, fields)
    else:
        _export(flags, fields)
    return ExitCode.DONE


def _export(flags: argparse.Namespace, fields: dict[str, typing.Any]) -> None:
    if not flags.folder:
        raise ValueError("Say what to export and where to: MODEL OUT (--help has examples).")
    _forbid(flags, ("output", "model", "num_classes"), "for --from-torch and --to-torch")
    if fields:
        raise ValueError("--model.FIELD is for --from-torch.")
    difference, count = export_model(
        flags.source,
        flags.folder,
        flags.format,
        checkpoint=flags.checkpoint,
        weights=flags.weights,
        images=flags.images,
        license_name=flags.license,
        image_size=flags.image_size,
    )
    print(f"Wrote {flags.folder}: largest difference of a logit {difference:.1e}, {count} images.")
    if flags.format == "folder":
        print(f"Next: python -m s2mlp_jax.predict {flags.folder} IMAGES")
        print(
            f"      hf upload USER/NAME {flags.folder}   # to a hub (pip install huggingface_hub)"
        )


def _convert(flags: argparse.Namespace, fields: dict[str, typing.Any]) -> None:
    if flags.source or not flags.output:
        raise ValueError("--from-torch and --to-torch need an --output=FILE, and no MODEL OUT.")
    _forbid(flags, ("images", "license", "format"), "for MODEL OUT")
    if flags.from_torch:
        _forbid(flags, ("checkpoint", "weights"), "of a run, and not for --from-torch")
        if not flags.model:
            raise ValueError("--from-torch needs --model: a state dict does not say its model.")
        sizes = (flags.num_classes or 1000, flags.image_size or 224)
        weights = import_weights(flags.from_torch, flags.model, flags.output, *sizes, **fields)
        written = flatten(weights.variables)
    elif flags.model or fields:
        raise ValueError("--model is for --from-torch: what is given back says its model.")
    else:
        _forbid(flags, ("num_classes", "image_size"), "not for --to-torch")
        written = export_weights(flags.to_torch, flags.output, flags.checkpoint, flags.weights)
    numbers = sum(x.size for x in written.values())
    print(f"Wrote {flags.output}: {len(written)} arrays, {numbers:,} numbers.")


def _forbid(flags: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raises a ValueError if one of these options was given."""
    default = _parser().get_default
    given = [name for name in names if getattr(flags, name) != default(name)]
    if given:
        raise ValueError(f"{', '.join(f'--{name}' for name in given)}: {why}.")


if __name__ == "__main__":
    sys.exit(main())
