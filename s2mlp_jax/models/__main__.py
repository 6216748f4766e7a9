"""Prints the variants beside what their papers print: `python -m s2mlp_jax.models`."""

import sys
import textwrap
from collections.abc import Sequence

from s2mlp_jax.cli import ExitCode, Parser, command
from s2mlp_jax.models.cost import paper_parameters, variant_cost
from s2mlp_jax.models.variants import VARIANTS

# name -> (image size in pixels, channels, classes) it is meant for; else ImageNet's.
INPUTS = {"s2mlp_digits": (8, 1, 10), "s2mlp_cifar": (32, 3, 10)}
_IMAGENET = (224, 3, 1000)

# name -> (parameters, multiply-accumulates) as the model's own paper prints them, "" if it does
# not, and why they differ from what is counted here.
_PRINTED = {
    "s2mlp_wide": (
        "71M",
        "14.0B",
        "The paper counts neither head nor norms: 71,433,984. MACs agree.",
    ),
    "s2mlp_deep": (
        "51M",
        "10.5B",
        "The paper counts neither head nor norms: 53,476,224 parameters, which is 51.00 in "
        "units of 2^20. Its first version used such units throughout, its second changed most "
        "of them to 10^6 and left this one. MACs agree.",
    ),
    "s2mlp_v2_small_7": ("25M", "6.9B", ""),
    "s2mlp_v2_medium_7": ("55M", "16.3B", ""),
    "s2mlp_v2_small_14": (
        "30M",
        "5.7B",
        "Its parameters agree, so the printed 5.7B is the wrong one; a first stage of 192 "
        "channels would take 5.71B, but has 25M parameters.",
    ),
    "mlp_mixer_s32": ("19M", "", ""),
    "mlp_mixer_s16": ("18M", "", ""),
    "mlp_mixer_b32": ("60M", "", ""),
    "mlp_mixer_b16": (
        "59M",
        "",
        "59M is without the head (59,111,400). S²-MLP's paper gives it 11.6B, AS-MLP's 11.7B: "
        "in units of 2^30 the blocks are 11.63 and the whole 11.74.",
    ),
    "mlp_mixer_l16": ("207M", "", "207M is without the head."),
    "resmlp_12": ("15.4M", "3.0B", ""),
    "resmlp_24": ("30.0M", "6.0B", ""),
    "resmlp_36": ("44.7M", "8.9B", ""),
    "vip_small_14": ("30M", "", ""),
    "vip_small_7": ("25M", "", "The 6.9B, 16.3B and 24.3B of /7 are printed by S²-MLPv2."),
    "vip_medium_7": ("55M", "", ""),
    "vip_large_7": (
        "88M",
        "",
        "The table's 9 + 27 blocks have 85,619,112 parameters; 88M are those of the authors' "
        "code, 8 + 28, which is what is built here.",
    ),
    "as_mlp_t": ("28M", "4.4B", ""),
    "as_mlp_s": ("50M", "8.5B", ""),
    "as_mlp_b": (
        "88M",
        "15.2B",
        "The layers multiply 15.13B; the rest of the printed 15.2B is not explained.",
    ),
    "deit_ti": ("5M", "", "5M and 22M are cut and rounded."),
    "deit_s": ("22M", "", ""),
    "deit_b": ("86M", "", "86M is cut."),
    "resnet_50": (
        "",
        "3.8B",
        "3.8B is 3.86B cut: there the stride is in the first convolution of a block, here, as in "
        "everyone's code, in the second.",
    ),
}


def variant_table() -> str:
    """Returns the table of variants as text."""
    head = (
        f"{'model':<18}{'input':>12}{'classes':>9}{'parameters':>13}"
        f"{'as S²-MLP':>12}{'printed':>9}{'MACs':>17}{'printed':>9}{'attention':>15}"
    )
    lines = [head, "-" * len(head)]
    notes = []
    for name, v in VARIANTS.items():
        size, channels, classes = INPUTS.get(name, _IMAGENET)
        printed_params, printed_macs, note = _PRINTED.get(name, ("", "", ""))
        cost = variant_cost(v, size, classes, channels)
        of_paper = v.skeleton == "metaformer" and v.mixer == "shift" and name in _PRINTED
        lines.append(
            f"{name:<18}{f'{size}x{size}x{channels}':>12}{classes:>9}{cost.parameters:>13,}"
            f"{f'{paper_parameters(v):,}' if of_paper else '-':>12}{printed_params or '-':>9}"
            f"{cost.macs:>17,}{printed_macs or '-':>9}"
            f"{f'{cost.attention_macs:,}' if cost.attention_macs else '-':>15}"
        )
        if note:
            notes.append(textwrap.fill(f"{name}: {note}", width=len(head), subsequent_indent="  "))
    legend = (
        "parameters: everything, head and norms too. as S²-MLP: its own formula (section 3.4). "
        "printed: by the model's own paper. MACs: multiply-accumulates of linear layers and "
        "convolutions, the head once per image. attention: queries with keys and weights with "
        "values, not in MACs."
    )
    return "\n".join([*lines, "", textwrap.fill(legend, width=len(head)), *notes])


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    Parser(prog="python -m s2mlp_jax.models", description=__doc__).parse_args(arguments)
    print(variant_table())
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
