"""Takes weights over from PyTorch's models of timm, and gives them back.

  python -m s2mlp_jax.export --from-torch=FILE --model=mlp_mixer_b16 --output=OURS.safetensors
  python -m s2mlp_jax.export --to-torch=OURS.safetensors --output=FILE
  python -m s2mlp_jax.export --to-torch=WORKDIR --checkpoint=best --output=FILE

FILE is a state dict by timm's names, as .safetensors or PyTorch's .pt, .pth or .bin; WORKDIR that
of a run of main.py. OURS.safetensors says which model it is of; in Python it is read by
`s2mlp_jax.weights_file.load_variables`. Exit codes: 0 done; 2 bad input.
"""

import argparse
import ast
import pathlib
import sys
import typing
from collections.abc import Iterable, Sequence

from s2mlp_jax.models import get_variant
from s2mlp_jax.models.variants import field_types
from s2mlp_jax.torch_weights import flatten, from_torch, to_torch
from s2mlp_jax.weights_file import (
    Weights,
    check_ending,
    read_state_dict,
    read_weights,
    write_state_dict,
    write_weights,
)


def import_weights(
    source: str, name: str, output: str, num_classes: int, image_size: int, **fields: typing.Any
) -> Weights:
    """Writes our file of weights, made of a state dict.

    Args:
      source: file of the state dict.
      name: one of `list_models()`.
      output: file to write, NAME.safetensors.
      num_classes: of the head.
      image_size: pixels that the weights are for, of square images.
      **fields: of the variant, where they differ from those of the name.

    Raises:
      ValueError: a model that timm has not, weights of another one, or a file that is none.
    """
    check_ending(output, (".safetensors",))
    variant = get_variant(name, **fields)
    variables = from_torch(variant, read_state_dict(source), num_classes, image_size)
    all_fields = {field: getattr(variant, field) for field in field_types()}
    weights = Weights(variables, name, num_classes, image_size, all_fields)
    write_weights(output, weights)
    return weights


def export_weights(source: str, output: str, checkpoint: str = "") -> dict[str, typing.Any]:
    """Writes a state dict, made of our file of weights or of a run.

    Args:
      source: a file that `import_weights` wrote, or the folder of a run, of which the weights are
        taken that it is judged by.
      output: file to write.
      checkpoint: of a run: "latest", which "" is too, "best", or a step.

    Returns:
      The state dict.

    Raises:
      ValueError: a model that timm has not, no such file, run or checkpoint.
    """
    check_ending(output)
    if pathlib.Path(source).is_dir():
        from s2mlp_jax.restore import restore_run  # needs what training does; a file does not

        restored = restore_run(source, checkpoint or "latest")
        state_dict = to_torch(restored.run.model.variant, restored.variables)
    elif checkpoint:
        raise ValueError(f"--checkpoint is of a run's folder, and {source} is not one.")
    else:
        weights = read_weights(source)
        state_dict = to_torch(weights.variant, weights.variables)
    write_state_dict(output, state_dict)
    return state_dict


def _parse_fields(arguments: Iterable[str]) -> dict[str, typing.Any]:
    """Returns {"depth": 2} for ["--model.depth=2"]; a ValueError for anything else."""
    fields: dict[str, typing.Any] = {}
    for argument in arguments:
        field, equals, text = argument.removeprefix("--model.").partition("=")
        if not argument.startswith("--model.") or not equals:
            raise ValueError(f"Unknown argument {argument}.")
        try:
            fields[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            fields[field] = text
    return fields


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m s2mlp_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--model.FIELD=VALUE, with --model, changes a field of the model.",
        allow_abbrev=False,
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from-torch", metavar="FILE", help="state dict to take over")
    way.add_argument("--to-torch", metavar="WORKDIR_OR_FILE", help="weights to give back")
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument("--model", default="", metavar="NAME", help="what FILE is of")
    parser.add_argument("--num_classes", type=int, default=1000, metavar="N")
    parser.add_argument("--image_size", type=int, default=224, metavar="PIXELS")
    parser.add_argument(
        "--checkpoint", default="", metavar="STEP", help="of a run: latest (default), best, a step"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts one file; returns the exit code."""
    flags, rest = _parser().parse_known_args(arguments)
    try:
        fields = _parse_fields(rest)
        if flags.from_torch:
            if not flags.model:
                raise ValueError("--from-torch needs --model: a state dict does not say its model.")
            sizes = (flags.num_classes, flags.image_size)
            weights = import_weights(flags.from_torch, flags.model, flags.output, *sizes, **fields)
            written = flatten(weights.variables)
        elif flags.model or fields:
            raise ValueError("--model is for --from-torch: what is given back says its model.")
        else:
            written = export_weights(flags.to_torch, flags.output, flags.checkpoint)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    numbers = sum(x.size for x in written.values())
    print(f"Wrote {flags.output}: {len(written)} arrays, {numbers:,} numbers.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
