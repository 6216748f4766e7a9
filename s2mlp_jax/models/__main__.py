"""Prints the variants beside what the paper prints: `python -m s2mlp_jax.models`."""

import textwrap

from s2mlp_jax.models.cost import paper_parameters, variant_macs, variant_parameters
from s2mlp_jax.models.variants import VARIANTS

# name -> (image size in pixels, channels, classes) it is meant for; else ImageNet's.
_INPUTS = {"s2mlp_digits": (8, 1, 10), "s2mlp_cifar": (32, 3, 10)}
_IMAGENET = (224, 3, 1000)

# name -> (parameters, MACs) as the paper's Table 2 prints them, and what they mean.
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
}


def variant_table() -> str:
    """Returns the table of variants as text."""
    head = (
        f"{'model':<14}{'input':>12}{'classes':>9}{'parameters':>13}"
        f"{'as paper':>12}{'printed':>9}{'MACs':>17}{'printed':>9}"
    )
    lines = [head, "-" * len(head)]
    notes = []
    for name, v in VARIANTS.items():
        size, channels, classes = _INPUTS.get(name, _IMAGENET)
        printed_params, printed_macs, note = _PRINTED.get(name, ("-", "-", ""))
        counted = f"{paper_parameters(v):,}" if note else "-"
        lines.append(
            f"{name:<14}{f'{size}x{size}x{channels}':>12}{classes:>9}"
            f"{variant_parameters(v, classes, channels):>13,}{counted:>12}{printed_params:>9}"
            f"{variant_macs(v, size, classes, channels):>17,}{printed_macs:>9}"
        )
        if note:
            notes.append(textwrap.fill(f"{name}: {note}", width=len(head), subsequent_indent="  "))
    legend = (
        "parameters: everything, head and norms too. as paper: its own formula (section 3.4). "
        "MACs: multiply-accumulates of the linear layers, the head once per image."
    )
    return "\n".join([*lines, "", textwrap.fill(legend, width=len(head)), *notes])


if __name__ == "__main__":
    print(variant_table())
