"""What one layer costs: the parts that `cost.py` and the token mixers add up."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a model, or of a part of it, for one image.

    Attributes:
      parameters: trained numbers of all kinds.
      macs: multiply-accumulates of linear layers, convolutions and fixed mixing matrices.
      attention_macs: multiply-accumulates of attention's own two products.
    """

    parameters: int = 0
    macs: int = 0
    attention_macs: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.attention_macs + other.attention_macs,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.parameters * times, self.macs * times, self.attention_macs * times)


def linear_cost(inputs: int, outputs: int, times: int, bias: bool = True) -> Cost:
    """Cost of a linear layer that runs `times` times per image."""
    return Cost(inputs * outputs + bias * outputs, inputs * outputs * times)


def norm_cost(dim: int) -> Cost:
    """Cost of a norm with a scale and a bias per channel."""
    return Cost(2 * dim)
